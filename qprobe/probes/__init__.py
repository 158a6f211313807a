"""What is measured of a tensor while a model runs, and where and when."""
