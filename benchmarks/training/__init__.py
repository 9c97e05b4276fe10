"""Training one adapter on the same texts, by this project and by others."""
