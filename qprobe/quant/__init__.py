"""What a recipe does to a tensor: formats, rounding, block scales, rotations, recipes, layers."""
