"""Two-stage retrieval as MMEngine validation and test loops: encode everything once, shortlist, match, evaluate."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from cada_plugin.datasets import TextPersonDataset
from cada_plugin.engine.report import retrieval_table
from cada_plugin.engine.rerank import match_shortlists
from cada_plugin.errors import ConfigError, explain_lost_workers
from cada_plugin.evaluation.result import stage_one_shortlist
from cada_plugin.models.retriever import TextFeatures, TextImageRetriever
from cada_plugin.progress import progress_bar
from cada_plugin.registry import LOOPS


class _RetrievalLoop(BaseLoop):
    """Shared body of both loops.

    Args:
        runner, dataloader, evaluator: given by the Runner. The data set must be in ``test_mode``: one item per image.
        rerank_topk: shortlist length k; 0 evaluates stage 1 alone, as does a model that cannot match. More than the
            gallery holds means all of it, which is logged.
        cosine_weight: of the cosine beside the match logit in the final score; the released code adds it with weight 1.
        amp: encode and match under bf16 autocast where the device has it.
    """

    mode: str

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        rerank_topk: int = 32,
        cosine_weight: float = 1.0,
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
        for metric in self.evaluator.metrics:
            metric.collect_dir = metric.collect_dir or f"{runner.work_dir}/.collect_{self.mode}"
        self.rerank_topk, self.cosine_weight, self.amp = rerank_topk, cosine_weight, amp

    def run(self) -> dict[str, float]:
        """Metrics of the whole split."""
        self.runner.call_hook(f"before_{self.mode}")
        self.runner.call_hook(f"before_{self.mode}_epoch")
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        model.eval()
        device = next(model.parameters()).device
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.amp)
        with explain_lost_workers(f"{self.mode}_dataloader"), torch.no_grad(), autocast:
            samples = self._retrieve(model, device)
        self.evaluator.process(samples)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.logger.info(retrieval_table(metrics, self._caption(model)))
        self.runner.call_hook(f"after_{self.mode}_epoch", metrics=metrics)
        self.runner.call_hook(f"after_{self.mode}")
        return metrics

    @torch.no_grad()
    def try_first_item(self) -> None:
        """Encode the first item, so that a model or pipeline that evaluation cannot use is named before training."""
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        training = model.training
        model.eval()
        batch = self.dataloader.collate_fn([self.dataloader.dataset[0]])
        model(model.data_preprocessor(batch, False)["inputs"], mode="predict")
        model.train(training)

    def _caption(self, model: TextImageRetriever) -> str:
        dataset = self.dataloader.dataset
        stages = f"re-ranked with k = {self.rerank_topk}" if self.reranks(model) else "stage 1 only"
        meta = getattr(dataset, "metainfo", {})
        name = f"{meta.get('dataset_name', type(dataset).__name__)} {meta.get('split', '')}".strip()
        if not isinstance(dataset, TextPersonDataset):  # a host's own
            return f"{name}: gallery {len(dataset):,} images, {stages}"
        return (
            f"{name}: gallery {dataset.num_images:,} images of {dataset.num_ids:,} people, "
            f"{dataset.num_captions:,} queries, {stages}"
        )

    def reranks(self, model: TextImageRetriever) -> bool:
        """Whether there is a second stage."""
        return model.can_match and self.rerank_topk > 0

    def _retrieve(self, model: TextImageRetriever, device: torch.device) -> list[dict]:
        """One element per item of this process, with its embeddings, shortlists and match logits."""
        items, tokens = self._encode(model)
        if not self.reranks(model):
            return items
        everyone = all_gather_object(
            [{k: i[k] for k in ("sample_index", "image_embed", "text_embed", "input_ids")} for i in items]
        )
        owner: dict[int, tuple[int, int, dict]] = {}  # sample: process, row, item; padding repeats items
        for rank, theirs in enumerate(everyone):
            for row, item in enumerate(theirs):
                owner.setdefault(item["sample_index"], (rank, row, item))
        gallery = [owner[index] for index in sorted(owner)]
        texts = _stack_texts([item for _, _, item in gallery], device)
        image_embed = torch.stack([item["image_embed"] for _, _, item in gallery])
        shortlist = stage_one_shortlist(texts.embed.cpu(), image_embed, self.rerank_topk)
        rows = torch.tensor([row if rank == get_rank() else -1 for rank, row, _ in gallery])
        logits = match_shortlists(model, texts, tokens, rows, shortlist, progress=is_main_process())
        owners = torch.tensor([rank for rank, _, _ in gallery])[shortlist]  # (Q, K): who scored a pair
        for rank, theirs in enumerate(all_gather_object(logits)):
            logits = torch.where(owners == rank, theirs, logits)
        counts = [len(item["input_ids"]) for _, _, item in gallery]
        logits_of = dict(
            zip(sorted(owner), zip(shortlist.split(counts), logits.split(counts), strict=True), strict=True)
        )
        for item in items:
            # cloned: a view would be pickled with the whole table when processes collect their results
            item["shortlist"], item["match_logits"] = (x.clone() for x in logits_of[item["sample_index"]])
            item["cosine_weight"] = self.cosine_weight
        return items

    def _encode(self, model: TextImageRetriever) -> tuple[list[dict], Tensor]:
        """Elements of this process, and its images' tokens (I, S, C) on the CPU if they will be matched."""
        items: list[dict] = []
        tokens = torch.empty(0)
        bar = progress_bar(
            self.dataloader, desc=f"encoding {self.mode} split", delay=2, disable=not is_main_process(), leave=False
        )
        for index, batch in enumerate(bar):
            self.runner.call_hook(f"before_{self.mode}_iter", batch_idx=index, data_batch=batch)
            inputs = model.data_preprocessor(batch, False)["inputs"]
            images, texts = model(inputs, mode="predict")
            if self.reranks(model):
                if index == 0:  # at once and not as a list to concatenate, which would hold everything twice
                    shape = len(self.dataloader.sampler), *images.tokens.shape[1:]
                    # products under autocast would round them to bf16 anyway
                    tokens = torch.empty(shape, dtype=torch.bfloat16 if self.amp else images.tokens.dtype)
                tokens[len(items) : len(items) + len(images.tokens)] = images.tokens
            items += _per_item(batch, images.embed.cpu(), texts.embed.cpu())
            self.runner.call_hook(f"after_{self.mode}_iter", batch_idx=index, data_batch=batch, outputs=None)
        return items, tokens


def _per_item(batch: dict, image_embed: Tensor, text_embed: Tensor) -> list[dict]:
    samples = batch["data_samples"]
    counts = [len(sample.captions) for sample in samples]
    ids, mask = batch["inputs"]["input_ids"].cpu(), batch["inputs"]["attention_mask"].cpu()
    captions = [row[real] for row, real in zip(ids, mask, strict=True)]  # without padding
    items = []
    start = 0
    for sample, image, count, text in zip(samples, image_embed, counts, text_embed.split(counts), strict=True):
        meta = {k: getattr(sample, k) for k in ("sample_index", "person_id", "captions", "img_path", "is_twin")}
        own = captions[start : start + count]
        items.append({**meta, "image_embed": image.clone(), "text_embed": text.clone(), "input_ids": own})
        start += count
    return items


def _stack_texts(items: Sequence[dict], device: torch.device) -> TextFeatures:
    captions = [ids for item in items for ids in item["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    embed = torch.cat([item["text_embed"] for item in items])
    return TextFeatures(embed.to(device), pad_sequence(captions, batch_first=True).to(device), mask.to(device))


@LOOPS.register_module()
class RetrievalValLoop(_RetrievalLoop):
    """Two-stage retrieval on the validation split; the best epoch is chosen here, never on the test split."""

    mode = "val"


@LOOPS.register_module()
class RetrievalTestLoop(_RetrievalLoop):
    """Two-stage retrieval on the test split."""

    mode = "test"
