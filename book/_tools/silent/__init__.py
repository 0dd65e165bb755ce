"""Silent bugs: what is planted (`planted`), where (`copies`), what finds it (`checks`), what it
costs (`costs`). `measure_bugs.py` runs them."""
