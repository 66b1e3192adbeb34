"""The official sequence list of VOT-2018 (short-term)."""

_NAMES = """
    ants1 ants3 bag ball1 ball2 basketball birds1 blanket bmx bolt1 bolt2 book butterfly car1
    conduction1 crabs1 crossing dinosaur drone_across drone_flip drone1 fernando fish1 fish2
    fish3 flamingo1 frisbee girl glove godfather graduate gymnastics1 gymnastics2 gymnastics3
    hand handball1 handball2 helicopter iceskater1 iceskater2 leaves matrix motocross1
    motocross2 nature pedestrian1 rabbit racing road shaking sheep singer2 singer3 soccer1
    soccer2 soldier tiger traffic wiper zebrafish1
"""

VOT2018 = tuple(_NAMES.split())
"""Its 60 sequences."""
