"""Suite `pairs`: STAGE's ablation on held-out stories of the pocket world."""
