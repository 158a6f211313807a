int qprobe_abi(void) { return 1; }
