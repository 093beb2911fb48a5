"""Two-stage retrieval as MMEngine validation and test loops: encode every item once, retrieve, evaluate."""

import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import DataLoader

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.datasets import TextPersonDataset
from cada_plugin.engine.encoded_items import EncodedItems, EncodedSplit
from cada_plugin.engine.hubness import HubnessCorrection
from cada_plugin.engine.report import retrieval_table
from cada_plugin.errors import ConfigError, explain_lost_workers
from cada_plugin.evaluation import RetrievalResult, TwoStageScores
from cada_plugin.models.retriever import TextFeatures, TextImageRetriever
from cada_plugin.progress import progress_bar
from cada_plugin.registry import LOOPS
from cada_plugin.retrieval import reranks, retrieve


class _RetrievalLoop(BaseLoop):
    """What the validation and the test loop share.

    The evaluator gets one ``RetrievalResult`` of the whole split, the same in all processes.

    Args:
        runner, dataloader, evaluator: given by the Runner. The data set must be in ``test_mode``: one item per image.
        rerank_topk: length k of the shortlist that stage 2 re-ranks. With 0, or a model that cannot match, only stage 1
            is evaluated. If k exceeds the gallery, the whole gallery is re-ranked, and this is logged.
        cosine_weight: weight of the cosine that is added to the match logit in the final score; 1 in the released code.
        hubness: ``dict(weight=0.75, neighbours=128)`` subtracts from the cosine what an image has in common with
            training captions in general, see :mod:`cada_plugin.portable.hubness`. None subtracts nothing.
        amp: encode and match under bf16 autocast.
    """

    mode: str
    keep_encoded = False
    """Whether ``encoded`` holds the encoded split after :meth:`run`, so that more captions can be ranked against it."""
    encoded: EncodedSplit | None = None

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        rerank_topk: int = 32,
        cosine_weight: float = 1.0,
        hubness: dict | None = None,
        amp: bool = False,
    ) -> None:
        super().__init__(runner, dataloader)
        dataset = self.dataloader.dataset
        if not getattr(dataset, "test_mode", False):
            raise ConfigError(
                f"{self.mode}_dataloader.dataset needs test_mode=True: one item per image with all captions"
            )
        if self.dataloader.drop_last:
            raise ConfigError(f"{self.mode}_dataloader.drop_last=True would leave images out of the gallery: set False")
        if rerank_topk < 0:
            raise ConfigError(f"rerank_topk={rerank_topk}: use 0 (no re-ranking) or more")
        if rerank_topk > len(dataset):
            runner.logger.info(
                f"rerank_topk={rerank_topk} exceeds the gallery ({len(dataset)} images): all of them are re-ranked"
            )
            rerank_topk = len(dataset)
        self.evaluator = evaluator if isinstance(evaluator, Evaluator) else runner.build_evaluator(evaluator)
        self.rerank_topk, self.cosine_weight, self.amp = rerank_topk, cosine_weight, amp
        self.hubness = None
        if hubness is not None:
            train = runner.cfg.get("train_dataloader") or {}
            self.hubness = HubnessCorrection(train.get("dataset"), **hubness)

    def run(self) -> dict[str, float]:
        """Evaluate the whole split and return its metrics."""
        self.runner.call_hook(f"before_{self.mode}")
        self.runner.call_hook(f"before_{self.mode}_epoch")
        model = bare_model(self.runner)
        model.eval()
        device = next(model.parameters()).device
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.amp)
        with explain_lost_workers(f"{self.mode}_dataloader"), torch.no_grad(), autocast:
            result = self._retrieve(model)
        self.evaluator.process([result])
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.logger.info(retrieval_table(metrics, self._caption(model)))
        self.runner.call_hook(f"after_{self.mode}_epoch", metrics=metrics)
        self.runner.call_hook(f"after_{self.mode}")
        return metrics

    @torch.no_grad()
    def try_first_item(self) -> None:
        """Encode the first item, so that a model or pipeline that evaluation cannot use is reported before training."""
        model = bare_model(self.runner)
        training = model.training
        model.eval()
        batch = self.dataloader.collate_fn([self.dataloader.dataset[0]])
        model(model.data_preprocessor(batch, False)["inputs"], mode="predict")
        model.train(training)

    def _caption(self, model: TextImageRetriever) -> str:
        dataset = self.dataloader.dataset
        stages = f"re-ranked with k = {self.rerank_topk}" if self.reranks(model) else "stage 1 only"
        if self.hubness is not None:
            stages += f", {self.hubness.weight:g} x hubness subtracted"
        meta = getattr(dataset, "metainfo", {})
        name = f"{meta.get('dataset_name', type(dataset).__name__)} {meta.get('split', '')}".strip()
        if not isinstance(dataset, TextPersonDataset):  # a data set of another package
            return f"{name}: gallery {len(dataset):,} images, {stages}"
        return (
            f"{name}: gallery {dataset.num_images:,} images of {dataset.num_ids:,} people, "
            f"{dataset.num_captions:,} queries, {stages}"
        )

    def reranks(self, model: TextImageRetriever) -> bool:
        """Whether ``model`` is evaluated with a second stage."""
        return reranks(model, self.rerank_topk)

    def _retrieve(self, model: TextImageRetriever) -> RetrievalResult:
        """Encode and rank the whole split; the result is the same in all processes."""
        encoded = self._encode(model).gathered(len(self.dataloader.dataset))
        if self.hubness is not None:
            encoded.images = encoded.images._replace(embed=self.hubness.images(model, encoded.images.embed))
        self.encoded = encoded if self.keep_encoded else None
        return encoded.result(self.rank(model, encoded.texts, encoded))

    def rank(self, model: TextImageRetriever, texts: TextFeatures, encoded: EncodedSplit) -> TwoStageScores:
        """Scores of encoded captions against the images of the split, in all processes the same."""
        if self.hubness is not None:
            texts = texts._replace(embed=self.hubness.texts(texts.embed))
        return retrieve(
            model,
            texts,
            encoded.images,
            self.rerank_topk,
            self.cosine_weight,
            encoded.token_rows,
            progress=is_main_process(),
        )

    def _encode(self, model: TextImageRetriever) -> EncodedItems:
        """Encode the items of this process."""
        encoded = EncodedItems(keep_tokens=self.reranks(model), amp=self.amp, capacity=len(self.dataloader.sampler))
        bar = progress_bar(
            self.dataloader, desc=f"encoding {self.mode} split", delay=2, disable=not is_main_process(), leave=False
        )
        for index, batch in enumerate(bar):
            self.runner.call_hook(f"before_{self.mode}_iter", batch_idx=index, data_batch=batch)
            inputs = model.data_preprocessor(batch, False)["inputs"]
            encoded.add(batch, *model(inputs, mode="predict"))
            self.runner.call_hook(f"after_{self.mode}_iter", batch_idx=index, data_batch=batch, outputs=None)
        return encoded


@LOOPS.register_module()
class RetrievalValLoop(_RetrievalLoop):
    """Two-stage retrieval on the validation split; the best epoch is chosen here, never on the test split."""

    mode = "val"


@LOOPS.register_module()
class RetrievalTestLoop(_RetrievalLoop):
    """Two-stage retrieval on the test split."""

    mode = "test"
