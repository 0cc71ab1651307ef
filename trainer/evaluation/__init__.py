"""What is measured on a test set, and what is predicted for one."""
