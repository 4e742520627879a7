"""The sentences that every good document holds and tests look for."""

PAGES = ("The mill grinds wheat on page one.", "The river turns the wheel on page two.")
"""Two sentences: the first stands on the first page, slide, sheet or chapter, the second on the second."""

UNICODE = "Grüße aus Łódź – naïve café, 東京 and Ελλάδα."
