"""Linear operators: curvature as something that multiplies with `@`."""
