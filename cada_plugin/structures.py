"""The annotation of one item, which travels beside the tensors through loader, model and metric."""

from mmengine.structures import BaseDataElement


class PersonDataSample(BaseDataElement):
    """Metadata of one data-set item.

    A training item is one (image, caption) pair, an evaluation item is one image with all its captions. Fields, all
    plain Python values so that a sample costs nothing to move between processes:

    - ``sample_index`` (int): position in the data set; the metric checks that each occurs exactly once.
    - ``person_id`` (int): identity in the annotation, the ground truth of retrieval.
    - ``label`` (int, training): identity renumbered 0..num_ids-1 for classifiers.
    - ``image_id`` (int): position of the image in its split.
    - ``img_path`` (str): absolute path of the image.
    - ``captions`` (list of str): one caption in training, all of the image's captions in evaluation.
    - ``camera_id`` (int or None): camera, if the data set gives it.
    - ``slices`` (list of lists of str, evaluation): for each caption the groups of queries that it belongs to; absent
      if the annotation has none.
    """
