"""Suite `keyframes`: Captain Cinema's ablations on the pocket world."""
