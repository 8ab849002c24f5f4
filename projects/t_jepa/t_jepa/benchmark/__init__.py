"""Raw columns, an untrained encoder and T-JEPA under the same heads (``tools/benchmark.py``).

:mod:`.choices` holds what is asked, :mod:`.data` reads and encodes, :mod:`.plan` makes cells and
jobs, :mod:`.evaluate` carries out the cells of an arm and a seed, :mod:`.collapse` measures,
:mod:`.estimate` times, :mod:`.run` runs, :mod:`.report` writes.
"""
