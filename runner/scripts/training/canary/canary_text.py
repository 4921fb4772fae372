"""The text that a base model is asked to predict before it is trained: prose of this project's own,
so that no model has seen it, in plain English, which every general model has seen much of.
"""

TEXT = """\
The lighthouse keeper's daughter counted the boats every evening before supper. There were nine \
of them in summer, when the harbour was full, and four in winter, when most of the families \
moved to the town behind the hill. She wrote the number in a small blue book, together with the \
direction of the wind and the height of the water at the old stone stairs.

One evening in October the number was five. She counted again, from the pier to the breakwater, \
and it was still five. Four of the boats she knew by the colour of their sails. The fifth was \
grey, without a name, and nobody stood on its deck. She wrote a five into the blue book, put a \
question mark behind it, and ran up the stairs to tell her father.

"A grey boat without a name," he said, and looked through the long brass telescope. "It must \
have come with the wind from the north. If nobody asks for it by Sunday, we will write to the \
harbour master." He let her look as well. In the evening light she saw that the grey boat lay \
very still, and that somebody had lit a small lamp behind its only window.
"""
