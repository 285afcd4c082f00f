"""Base of the callbacks: Lightning hooks written once, teachers, learned noise, calibration."""
