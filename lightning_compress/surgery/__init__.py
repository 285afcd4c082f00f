"""Change a torch network: transforms, masks, replacement, resizing, measuring, calibration."""
