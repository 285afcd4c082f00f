"""Small networks and image data that the application uses."""
