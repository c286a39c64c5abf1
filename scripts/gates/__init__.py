"""What the noxfile needs and does not want to say itself.

`interpreters` finds Pythons that really run, `runner` runs gates and reports on them,
`distribution` says what is wrong with a built wheel, `locks` writes the lock files, `steps` has
what sessions have in common.
"""

from __future__ import annotations
