import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.data.views import Views, averaged, views_of
from leanformer.errors import ConfigError

IMAGES = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_the_image_is_the_first_view_and_its_mirror_the_second():
    assert torch.equal(views_of(IMAGES, Views(flip=False))[0], IMAGES)
    views = views_of(IMAGES, Views())
    assert views.shape == (2, *IMAGES.shape)
    assert torch.equal(views[1], IMAGES.flip(-1))


def test_corners_are_enlarged_to_the_size_of_the_image():
    assert views_of(IMAGES, Views(crops=5)).shape == (10, *IMAGES.shape)
    views = views_of(IMAGES, Views(crops=5, flip=False, corner=0.5))
    whole = views_of(IMAGES, Views(crops=5, flip=False, corner=1.0))
    assert all(torch.allclose(view, IMAGES, atol=1e-6) for view in whole)
    marked = torch.zeros(1, 3, 16, 24)
    marked[..., :8, :12] = 1
    assert [view.mean().item() for view in views_of(marked, Views(crops=5, flip=False, corner=0.5))[1:]] == [1, 0, 0, 0]
    assert len(views) == 5


def test_probabilities_are_averaged_over_the_views():
    def model(images):
        return torch.stack([images[:, 0, :, 0].mean(1), images[:, 1, :, 0].mean(1) * 3], dim=1)

    out = averaged(model, IMAGES, Views())
    expected = (model(IMAGES).softmax(1) + model(IMAGES.flip(-1)).softmax(1)) / 2
    torch.testing.assert_close(out.exp(), expected)
    torch.testing.assert_close(averaged(model, IMAGES, Views(flip=False)), model(IMAGES).log_softmax(1))


def test_impossible_views_are_refused():
    with pytest.raises(ConfigError, match="crops must be 1 or 5, got 3"):
        Views(crops=3)
    with pytest.raises(ConfigError, match="corner must be above 0 and at most 1, got 0"):
        Views(corner=0.0)
    assert from_dict(to_dict(Views(crops=5)), Views) == Views(crops=5)
