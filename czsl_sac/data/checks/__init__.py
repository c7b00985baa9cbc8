"""What is wrong with a data set, told before anything is trained on it."""
