"""EGD-CXR: chest X-rays with the gaze of the radiologist who read them."""
