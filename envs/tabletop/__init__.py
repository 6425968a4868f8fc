"""Language tasks: a tabletop of simple shapes, sentences about it, instructions, and experts that follow them."""
