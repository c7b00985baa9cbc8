"""Methods at ViT-L/14 and C-GQA's size, with random weights: one training step on shapes."""

import pytest

from benchmarks.method_memory import Options, count
from czsl_sac.methods.registry import method_class, method_names, method_options

TRAINED = [name for name in method_names() if method_class(method_options(name)()).stages]
CARD = 24 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_at_cgqas_size_fits_a_card(name: str) -> None:
    peak, trained = count(name, Options())
    assert 2**30 < peak < CARD
    assert 0 < trained < 10**8
    if name == "caila":  # recomputing a tower's blocks saves what its many adapters keep
        assert count(name, Options(checkpoint_vision=True))[0] < 0.6 * peak
