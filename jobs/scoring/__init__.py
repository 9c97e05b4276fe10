"""Scores: questions, text metrics, intervals, the forgetting matrix. Pure."""
