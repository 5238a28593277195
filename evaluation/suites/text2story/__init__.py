"""Suite `storytelling`: Text2Story's ablation (§4.5), on the pocket world or on a set of prompt pairs."""
