"""What `mutate_tracker.py` changes in the code of Algorithm 1."""

from typing import NamedTuple

TRACKER, CANDIDATES, SUPPORT = "tracker.py", "candidates.py", "support_set.py"
FIRST_DESCENT = "self._descend(self._weights, support, num_steps, BRANCHES)"


class Mutation(NamedTuple):
    """A change that a test must notice."""

    line: str
    """Of Algorithm 1; or what belongs to it."""

    what: str
    """What is missing or wrong now."""

    file: str
    """Of `eval_jobs`."""

    old: str
    """Must stand there exactly once."""

    new: str
    """Stands there instead."""


MUTATIONS = (
    Mutation(
        "1",
        "the first search region is not about the given box",
        TRACKER,
        "search_image = cut(image, window)  # line 1",
        "search_image = cut(image, search_window(first_box + 9.0))",
    ),
    Mutation(
        "2",
        "no zooms: the support set is the search region alone",
        TRACKER,
        "zooms(search_image, window.to_crop(first_box))  # line 2",
        "(search_image[None], window.to_crop(first_box)[None])",
    ),
    Mutation(
        "2",
        "boxes are zoomed, images are not",
        TRACKER,
        "zooms(search_image, window.to_crop(first_box))  # line 2",
        "(np.stack([search_image] * 3), zooms(search_image, window.to_crop(first_box))[1])",
    ),
    Mutation(
        "3",
        "no gradient descent on the first frame",
        TRACKER,
        f"self._weights = {FIRST_DESCENT}  # line 3",
        "pass",
    ),
    Mutation(
        "3",
        "the adapted weights are not used",
        TRACKER,
        f"self._weights = {FIRST_DESCENT}  # line 3",
        FIRST_DESCENT,
    ),
    Mutation("4", "frames are not counted", TRACKER, "self._frame_number += 1  # line 4", "pass"),
    Mutation(
        "5",
        "the search region is not about the last box",
        TRACKER,
        "window = search_window(self._box)\n        features",
        "window = search_window(self._box + 9.0)\n        features",
    ),
    Mutation(
        "5",
        "the crop is of another place than the window",
        TRACKER,
        "self._features(cut(image, window)[None])",
        "self._features(cut(image, search_window(self._box + 9.0))[None])",
    ),
    Mutation(
        "5",
        "detects with the weights of before",
        TRACKER,
        "self._online.outputs(self._weights, features)",
        "self._online.outputs(self._learner.weights, features)",
    ),
    Mutation(
        "6",
        "never lost",
        TRACKER,
        "if (scores < config.min_score).all():  # line 6",
        "if False:",
    ),
    Mutation(
        "6",
        "lost where any score is low",
        TRACKER,
        "if (scores < config.min_score).all():  # line 6",
        "if (scores < config.min_score).any():",
    ),
    Mutation(
        "7",
        "a lost target's box is the best candidate",
        TRACKER,
        "return Prediction(box=last, score=float(scores.max()), lost=True)  # lines 7-8",
        "self._box = window.to_image(candidates[int(scores.argmax())])\n"
        "            return Prediction(box=self._box, score=float(scores.max()), lost=True)",
    ),
    Mutation(
        "8",
        "a due update is made though the target is lost",
        TRACKER,
        "return Prediction(box=last, score=float(scores.max()), lost=True)  # lines 7-8",
        "if self._update_is_due(scores, 0, window.to_crop(self._box)):\n"
        "                self._weights = self._descend(self._weights, self._support, 1, BRANCHES)\n"
        "            return Prediction(box=self._box, score=float(scores.max()), lost=True)",
    ),
    Mutation(
        "8",
        "a sample is added though the target is lost",
        TRACKER,
        "return Prediction(box=last, score=float(scores.max()), lost=True)  # lines 7-8",
        "self._support.add(features, self._to_device(window.to_crop(self._box)[None]))\n"
        "            return Prediction(box=self._box, score=float(scores.max()), lost=True)",
    ),
    Mutation(
        "10",
        "no penalty",
        TRACKER,
        "ranking(scores, penalties, config.window_weight)  # line 10",
        "ranking(scores, np.ones_like(penalties), config.window_weight)",
    ),
    Mutation(
        "10",
        "no cosine prior",
        TRACKER,
        "ranking(scores, penalties, config.window_weight)  # line 10",
        "ranking(scores, penalties, 0.0)",
    ),
    Mutation(
        "10",
        "a change of scale costs nothing",
        CANDIDATES,
        "np.exp(-(scale_change * aspect_change - 1.0) * strength)",
        "np.exp(-(aspect_change - 1.0) * strength)",
    ),
    Mutation(
        "10",
        "a change of aspect costs nothing",
        CANDIDATES,
        "np.exp(-(scale_change * aspect_change - 1.0) * strength)",
        "np.exp(-(scale_change - 1.0) * strength)",
    ),
    Mutation(
        "11",
        "another candidate than the best is taken",
        TRACKER,
        "window.to_image(candidates[winner])  # line 11",
        "window.to_image(candidates[0])",
    ),
    Mutation(
        "11",
        "the raw score decides",
        TRACKER,
        "winner = int(ranks.argmax())",
        "winner = int(scores.argmax())",
    ),
    Mutation(
        "12",
        "the shape is not smoothed",
        TRACKER,
        "smooth_shape(chosen, self._box, config.shape_rate),  # line 12",
        "chosen,",
    ),
    Mutation(
        "12",
        "the centre is smoothed too",
        CANDIDATES,
        "center = (box[:2] + box[2:]) / 2\n    size = (1.0",
        "center = (box[:2] + box[2:] + last_box[:2] + last_box[2:]) / 4\n    size = (1.0",
    ),
    Mutation(
        "12",
        "the box may leave the image",
        CANDIDATES,
        "np.clip((box[:2] + box[2:]) / 2, 0.0, image)",
        "(box[:2] + box[2:]) / 2",
    ),
    Mutation(
        "13",
        "no sample is ever added",
        TRACKER,
        "if score > config.add_threshold:  # line 13",
        "if False:",
    ),
    Mutation(
        "13",
        "bad results are added",
        TRACKER,
        "if score > config.add_threshold:  # line 13",
        "if True:",
    ),
    Mutation(
        "13",
        "a sample has the last frame's box",
        TRACKER,
        "self._support.add(features, self._to_device(box_in_crop[None]))",
        "self._support.add(features, self._to_device(last_in_crop[None]))",
    ),
    Mutation(
        "13",
        "the first samples leave too",
        SUPPORT,
        "place = self._num_initial + self._num_added % num_places",
        "place = (self._num_initial + self._num_added) % self._max_samples",
    ),
    Mutation(
        "13",
        "the newest sample leaves first",
        SUPPORT,
        "place = self._num_initial + self._num_added % num_places",
        "place = min(self._num_initial + self._num_added, self._max_samples - 1)",
    ),
    Mutation(
        "13",
        "a sample's features are not kept",
        SUPPORT,
        "self._features[name][place] = value[0]",
        "pass",
    ),
    Mutation(
        "14",
        "no update at the interval",
        TRACKER,
        'if is_on_interval and "interval" in config.update_triggers:',
        "if False:",
    ),
    Mutation(
        "14",
        "an update at the interval that nobody asked for",
        TRACKER,
        'if is_on_interval and "interval" in config.update_triggers:',
        "if is_on_interval:",
    ),
    Mutation(
        "14",
        "an update on distractors that nobody asked for",
        TRACKER,
        'if "distractor" not in config.update_triggers:',
        "if False:",
    ),
    Mutation(
        "14",
        "no update on a distractor",
        TRACKER,
        "return ratio > config.distractor_ratio",
        "return False",
    ),
    Mutation(
        "14",
        "an update on every frame",
        TRACKER,
        "return ratio > config.distractor_ratio",
        "return True",
    ),
    Mutation(
        "14",
        "the winner's own neighbours are distractors",
        CANDIDATES,
        "outside = (far_rows[:, None] | far_columns[None, :]).ravel()",
        "outside = np.arange(len(scores)) != winner",
    ),
    Mutation(
        "15",
        "no update",
        TRACKER,
        "if self._update_is_due(scores, winner, box_in_crop):  # line 14",
        "if False:",
    ),
    Mutation(
        "15",
        "the updated weights are not used",
        TRACKER,
        "self._weights = self._guard.passed(updated, before)",
        "self._guard.passed(updated, before)",
    ),
    Mutation(
        "15",
        "an update starts from theta_0 again",
        TRACKER,
        "self._online.adapt(begin, features",
        "self._online.adapt(self._learner.weights, features",
    ),
    Mutation(
        "15",
        "an update takes five steps",
        TRACKER,
        "config, begin = self.config, self._weights\n        num_steps = config.update_steps",
        "config, begin = self.config, self._weights\n        num_steps = 5",
    ),
    Mutation(
        "15",
        "an update adapts both branches, whatever the setting",
        TRACKER,
        "support, num_steps, config.update_branches",
        "support, num_steps, BRANCHES",
    ),
    Mutation(
        "15",
        "an update of the heads climbs by learned rates below 0",
        TRACKER,
        "self._learner.partial(self._weights, part)",
        "replace(self._learner, weights=self._weights, adapts=part)",
    ),
    Mutation(
        "15",
        "where heads alone adapt, rates below 0 are left out too",
        TRACKER,
        "if part is not None and part != self._learner.adapts:",
        "if part is not None:",
    ),
    Mutation(
        "state",
        "a new target starts from the last one's weights",
        TRACKER,
        "self._online, self._weights = self._learner, self._learner.weights",
        "self._online = self._learner",
    ),
    Mutation(
        "state",
        "a new target goes on with the last one's frame number",
        TRACKER,
        "self._frame_number = 1",
        "pass",
    ),
)
