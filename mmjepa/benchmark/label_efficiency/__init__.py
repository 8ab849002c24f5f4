"""AP against the share of labels, from scratch and pre-trained (``tools/label_efficiency.py``).

:mod:`.choices` holds what is asked, :mod:`.examine` reads configs and data, :mod:`.plan` makes the
jobs, :mod:`.run` carries them out, :mod:`.results` knows their folders, :mod:`.report` writes.
"""
