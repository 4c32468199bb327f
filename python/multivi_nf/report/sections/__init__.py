"""Sections of the page: each turns results into what the template writes, figures included."""
