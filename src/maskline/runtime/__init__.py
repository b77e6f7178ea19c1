"""Prediction with an exported model, without torch."""
