"""What the method must know of each architecture: one family a file, named by Hugging Face's `model_type`.

To add one: write `<model_type>.py` with a `FAMILY` (protocol: `family.py`; `decoder.py` holds the layout that Llama
made common), name it in `FamilyName` of `workers.contracts.recipe`, and give its forms a row each in the conformance
suite (`variants.py` beside the tests), which then checks slots, sites, bases, cuts, exports and training. Where stock
code cannot say a width that the heads do not follow, a modelling file goes into `narrow/`.
"""
