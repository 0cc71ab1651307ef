"""`adatt report`: runs side by side on one HTML page."""
