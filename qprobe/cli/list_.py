"""``qprobe list``: what there is to choose from."""
