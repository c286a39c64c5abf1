from __future__ import annotations

import pytest

# The modules beside the tests assert much, and should show what differed.
pytest.register_assert_rewrite(
    *(f"tests.end_to_end.{name}" for name in ("accounts", "serving", "witness"))
)
