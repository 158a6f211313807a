"""Which layer has to stay in high precision: screened, raced, measured, and combined."""
