"""Judgement: how good the text is, what the values say, and the page that shows it."""
