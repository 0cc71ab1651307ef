"""What is evaluated while a run is trained."""
