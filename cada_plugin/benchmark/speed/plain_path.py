"""CADA computed plainly, as in the released code: the reference for the results and the speed of the fast path.

Captions are padded to the longest that the tokenizer allows. True pairs, wrong images and wrong captions are three
separate passes. The keys and values of an image are recomputed for every text, attention weights are materialised, the
vocabulary head scores every position, and re-ranking takes one query at a time. Only the weights, the image encoder,
the linear heads and the loss functions are those of ``cada_plugin.models``; the losses have reference tests of their
own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.models import CADA, CrossModalBert, PositionGroups


class PlainPath(nn.Module):
    """Plain computation with the weights of a CADA that has ``negatives='hardest'`` and ``PositionGroups`` or
    ``TokenGroups``."""

    def __init__(self, model: CADA) -> None:
        super().__init__()
        self.model = model
        self.length = model.tokenizer.max_length

    # One BERT

    def bert(
        self, bert: CrossModalBert, ids: Tensor, mask: Tensor, image_tokens: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Hidden states (P, T, C) of texts. Each text attends to its own image tokens (P, S, C_image), if given."""
        T, drop = ids.shape[1], self._dropout
        embeddings = bert.embeddings
        x = embeddings.word_embeddings(ids) + embeddings.position_embeddings(torch.arange(T, device=ids.device))
        x = drop(embeddings.LayerNorm(x), embeddings.dropout.p)
        visible = mask[:, None, None, :].expand(-1, 1, T, -1)
        if causal:
            visible = visible & torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
        bias = torch.zeros(visible.shape, device=ids.device).masked_fill(~visible, -10000.0)
        for layer in bert.encoder.layer:
            own = layer.attention
            x = self._block(own.output, self._attend(own, x, x, bias), x)
            if image_tokens is not None:
                cross = layer.crossattention
                x = self._block(cross.output, self._attend(cross, x, image_tokens), x)
            x = self._block(layer.output, F.gelu(layer.intermediate.dense(x)), x)
        return x

    def _attend(self, block: nn.Module, asking: Tensor, asked: Tensor, bias: Tensor | None = None) -> Tensor:
        heads = block.heads

        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

        query, key, value = (
            split(block.self.query(asking)),
            split(block.self.key(asked)),
            split(block.self.value(asked)),
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return (self._dropout(weights, block.dropout) @ value).transpose(1, 2).flatten(2)

    def _block(self, output: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        return output.LayerNorm(self._dropout(output.dense(x), output.dropout.p) + residual)

    def _dropout(self, x: Tensor, p: float) -> Tensor:
        return F.dropout(x, p, self.training)

    # Training

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.length - x.shape[1]))

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """The same three losses as ``CADA.loss``."""
        model = self.model
        ids, mask = self.pad(inputs["input_ids"]), self.pad(inputs["attention_mask"])
        people = torch.tensor([sample.person_id for sample in data_samples], device=ids.device)
        tokens = model.visual_encoder(inputs["images"])
        image = model.vision_proj(tokens[:, 0])
        text = model.text_proj(self.bert(model.text_encoder, ids, mask)[:, 0])
        losses = {
            "loss_global": model.loss_global(
                F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1), people
            )
        }
        same = people[:, None] == people[None]
        with torch.no_grad():
            similarity = (image.float() @ text.float().T).masked_fill(same, -torch.inf)
            wrong_text, wrong_image = similarity.argmax(1), similarity.argmax(0)
        fused = ids.clone()
        fused[:, 0] = model.tokenizer.enc_id
        passes = [
            self.bert(model.text_encoder, fused, mask, tokens),
            self.bert(model.text_encoder, fused, mask, tokens[wrong_image]),
            self.bert(model.text_encoder, fused[wrong_text], mask[wrong_text], tokens),
        ]
        masks = [mask, mask, mask[wrong_text]]
        groups = [self.groups(states, m) for states, m in zip(passes, masks, strict=True)]
        means, exist = (torch.cat(parts) for parts in zip(*groups, strict=True))
        pair_logits = torch.cat([model.itm_head(states[:, 0]) for states in passes])
        matched = torch.arange(3 * len(ids), device=ids.device) < len(ids)
        losses["loss_atp"] = model.loss_atp(pair_logits, matched, model.itm_local_head(means), exist, exist.sum())

        where, decoder = self.pad(inputs["masked_positions"]), model.text_decoder
        masked = self.pad(inputs["masked_ids"])
        logits = decoder.cls.predictions(self.bert(decoder.bert, masked, mask, tokens, decoder.causal))
        labels = ids.masked_fill(~where, -100)
        losses["loss_ara"] = model.loss_ara.weight * F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return losses

    def groups(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean states (P, G, C) of each group of tokens, one text and group at a time, and which groups exist."""
        grouping = self.model.grouping
        number, by_position = grouping.num_groups, isinstance(grouping, PositionGroups)
        means = states.new_zeros(len(states), number, states.shape[-1])
        exist = torch.zeros(len(states), number, dtype=torch.bool, device=states.device)
        for p in range(len(states)):
            last = self.length if by_position else int(mask[p].sum()) - 1
            for g in range(number):
                if by_position:
                    size = (last - 1) // number
                    start, stop = 1 + g * size, 1 + (g + 1) * size
                else:  # words are split as evenly as possible: word w belongs to group floor(w * number / words)
                    words = last - 1
                    chosen = [w for w in range(words) if w * number // words == g]
                    start, stop = (1 + chosen[0], 2 + chosen[-1]) if chosen else (1, 1)
                if stop > start:
                    means[p, g] = states[p, start:stop].mean(0)
                    exist[p, g] = True
        return means, exist

    # Retrieval

    @torch.no_grad()
    def rerank(self, ids: Tensor, mask: Tensor, image_tokens: Tensor, shortlist: Tensor) -> Tensor:
        """Match logits (Q, K) of each caption's shortlist, one caption at a time."""
        fused, mask = self.pad(ids), self.pad(mask)
        fused[:, 0] = self.model.tokenizer.enc_id
        rows = []
        for q, images in enumerate(shortlist):
            k = len(images)
            tokens = image_tokens[images].to(ids.device)
            states = self.bert(
                self.model.text_encoder, fused[q : q + 1].expand(k, -1), mask[q : q + 1].expand(k, -1), tokens
            )
            rows.append(self.model.itm_head(states[:, 0])[:, 1].float().cpu())
        return torch.stack(rows)
