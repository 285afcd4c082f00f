"""What is done to a torch network: transforms, masks, replacement, resizing, measuring, calibration."""
