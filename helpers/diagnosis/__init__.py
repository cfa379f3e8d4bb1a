"""The doctor's eyes and rules: `evidence` asks AWS's API, the other modules judge what it answered, layer by layer.

`table.RULES` is the table of all rules: symptom → evidence → cause → fix. To add one, write a function of `Evidence`
in the module of its layer and give it a row.
"""
