"""Suite `video`: SmartDirector's ablation (§4.4) on the pocket world."""
