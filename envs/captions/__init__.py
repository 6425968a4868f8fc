"""Pictures of the built-in tasks and of drawn tabletops, and which sentences are true of them."""
