"""The first line of a run says what is trained on what; a norm blend is explained once."""

import logging
from dataclasses import replace

from leanformer.training import fit


def lines_of(caplog, config, data):
    with caplog.at_level(logging.INFO):
        fit(config, data=data)
    return [record.getMessage() for record in caplog.records if record.name == "leanformer.training.progress"]


def test_the_first_line_says_what_is_trained_on_what(plain_config, nano_data, caplog):
    first = lines_of(caplog, replace(plain_config, epochs=1), nano_data)[0]
    assert "M parameters) on cpu, fp32, 1 thread: 96 training images of 4 classes" in first
    assert "6 steps of 16 images in 1 epoch, 3 batches to validate" in first


def test_poor_validation_while_norms_are_blended_is_explained_once(nano_config, nano_data, caplog):
    lines = lines_of(caplog, replace(nano_config, epochs=4), nano_data)
    explained = [line for line in lines if "RepBN alone" in line]
    assert len(explained) == 1 and "norm_progress 0." in explained[0]
    assert lines.index(explained[0]) == 2, "after the first epoch"


def test_a_run_without_a_blend_needs_no_explanation(plain_config, nano_data, caplog):
    assert not any("RepBN" in line for line in lines_of(caplog, plain_config, nano_data))


def test_a_run_of_few_steps_is_told_of_smaller_batches(plain_config, nano_data, caplog):
    lines = lines_of(caplog, replace(plain_config, epochs=1, batch_size=40), nano_data)
    assert "96 training images make 2 steps of 40 in an epoch, 16 are left out of each; a batch size of 19" in lines[1]
