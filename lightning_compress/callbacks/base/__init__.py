"""What the callbacks are built on: Lightning hooks written once, teachers, learned noise, calibration."""
