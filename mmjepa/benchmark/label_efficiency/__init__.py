"""AP against the share of labels, from scratch and pre-trained (``tools/label_efficiency.py``).

The process that plans and starts the jobs imports no torch; :mod:`.examine` does, in its own.
"""
