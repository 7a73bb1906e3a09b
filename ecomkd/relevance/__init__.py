"""Chapters 1–7: from judged pairs to a teacher, its students, and a verdict."""
