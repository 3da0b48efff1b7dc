"""Networks for dense prediction, detection and signals; gates; blocks of known families in miniature."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

from dataclasses import dataclass

import torch
from kinds import Net, block, classifier, conv, images, kind, pooled
from torch import Tensor, nn
from torch.nn import functional

# dense prediction and detection


@kind
def feature_pyramid():
    """Three scales, their sums, and heads that are shared by them (RetinaNet)."""

    def forward(self, x):
        fine = self.one(x)
        middle = self.two(fine)
        coarse = self.lateral3(self.three(middle))
        middle = self.lateral2(middle) + functional.interpolate(coarse, scale_factor=2)
        fine = self.lateral1(fine) + functional.interpolate(middle, size=fine.shape[-2:])
        levels = [fine, middle, coarse]
        boxes = [self.boxes(self.tower(level)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for level in levels]
        scores = [self.scores(self.tower(level)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5) for level in levels]
        return {"boxes": torch.cat(boxes, 1), "scores": torch.cat(scores, 1).sigmoid()}

    layers = {"one": block(3, 8), "two": block(8, 12, stride=2), "three": block(12, 16, stride=2)}
    layers |= {f"lateral{n}": conv(width, 12, 1) for n, width in ((1, 8), (2, 12), (3, 16))}
    return Net(forward, **layers, tower=block(12, 12), boxes=conv(12, 12), scores=conv(12, 15)), images()


@kind
def yolo_head():
    """Distances as an expectation over bins (distribution focal loss)."""

    def forward(self, x):
        x = self.stem(x)
        found = torch.cat([self.boxes(x), self.scores(x)], 1).flatten(2)
        boxes, scores = found.split((32, 5), 1)
        count, _, anchors = boxes.shape
        distances = self.project(boxes.view(count, 4, 8, anchors).transpose(2, 1).softmax(1)).view(count, 4, anchors)
        return torch.cat([distances, scores.sigmoid()], 1)

    layers = {"stem": block(3, 16), "boxes": nn.Sequential(block(16, 12), conv(12, 32, 1))}
    layers |= {"scores": nn.Sequential(block(16, 12), conv(12, 5, 1)), "project": nn.Conv2d(8, 1, 1, bias=False)}
    return Net(forward, **layers), images()


@kind
def centers_of_objects():
    """Heat maps and their local maxima (CenterNet)."""

    def forward(self, x):
        heat = self.heat(self.stem(x)).sigmoid()
        return heat * (functional.max_pool2d(heat, 3, 1, 1) == heat)

    return Net(forward, stem=block(3, 16), heat=nn.Sequential(block(16, 12), conv(12, 2, 1))), images()


@kind
def atrous_pyramid():
    """Dilated branches and the image's mean beside each other (DeepLab)."""

    def forward(self, x):
        x = self.stem(x)
        mean = functional.interpolate(self.image(functional.adaptive_avg_pool2d(x, 1)), x.shape[-2:], mode="bilinear")
        branches = [branch(x) for branch in self.branches]
        return self.head(self.join(torch.cat([*branches, mean], 1)))

    branches = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
    layers = {"stem": block(3, 16), "image": block(16, 8, 1), "branches": branches, "join": block(32, 12, 1)}
    return Net(forward, **layers, head=nn.Conv2d(12, 2, 1)), images()


@kind
def pyramid_pooling():
    """Means of several grids beside x (PSPNet)."""

    def forward(self, x):
        x = self.stem(x)
        parts = [x]
        for size, layer in zip((1, 2, 4), self.layers, strict=True):
            part = layer(functional.adaptive_avg_pool2d(x, size))
            parts.append(functional.interpolate(part, x.shape[2:], mode="bilinear", align_corners=False))
        return self.head(torch.cat(parts, 1))

    layers = nn.ModuleList(block(16, 4, 1) for _ in range(3))
    return Net(forward, stem=block(3, 16), layers=layers, head=nn.Conv2d(28, 2, 1)), images()


@kind
def prototypes_of_masks():
    """Masks as products of coefficients and prototypes (YOLACT), by einsum."""

    def forward(self, x):
        x = self.stem(x)
        coefficients = self.coefficients(functional.adaptive_avg_pool2d(x, 2)).flatten(2)
        return torch.einsum("bkn,bkhw->bnhw", coefficients, self.prototypes(x)).sigmoid()

    return Net(forward, stem=block(3, 16), coefficients=conv(16, 8, 1), prototypes=block(16, 8)), images()


@kind
def upsampled_by_its_own_weights():
    """Nine weights a pixel from the features (RAFT's convex upsampling)."""

    def forward(self, x):
        x = self.stem(x)
        flow = self.flow(x)
        count, _, height, width = flow.shape
        mask = self.mask(x).view(count, 1, 9, 2, 2, height, width).softmax(2)
        patches = functional.unfold(flow, 3, padding=1).view(count, 2, 9, 1, 1, height, width)
        return (mask * patches).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(count, 2, 2 * height, 2 * width)

    flow, mask = nn.Sequential(block(16, 12), conv(12, 2)), nn.Sequential(block(16, 12), conv(12, 36, 1))
    return Net(forward, stem=block(3, 16), flow=flow, mask=mask), images(size=8)


@dataclass
class Scene:
    """A prediction."""

    mask: Tensor
    depth: Tensor


@kind
def dataclass_of_outputs():
    def forward(self, x):
        x = self.stem(x)
        return Scene(self.mask(x), self.depth(x).exp())

    layers = {"mask": nn.Sequential(block(16, 12), conv(12, 2)), "depth": nn.Sequential(block(16, 8), conv(8, 1))}
    return Net(forward, stem=block(3, 16), **layers), images()


@kind
def high_resolution_streams():
    """Two scales that exchange their features (HRNet)."""

    def forward(self, x):
        fine, coarse = self.fine(x), self.coarse(x)
        for up, down in zip(self.up, self.down, strict=True):
            fine, coarse = (
                functional.relu(fine + functional.interpolate(up(coarse), scale_factor=2)),
                functional.relu(coarse + down(fine)),
            )
        return self.head(torch.cat([fine, functional.interpolate(coarse, scale_factor=2)], 1))

    layers = {"fine": block(3, 8), "coarse": block(3, 16, stride=2), "head": conv(24, 2, 1)}
    exchange = {"up": [conv(16, 8, 1) for _ in range(2)], "down": [conv(8, 16, stride=2) for _ in range(2)]}
    return Net(forward, **layers, **{name: nn.ModuleList(each) for name, each in exchange.items()}), images()


@kind
def super_resolution():
    """Residual blocks with a scale, and sub-pixel upsampling twice (EDSR)."""

    def forward(self, x):
        x = self.stem(x)
        for inner in self.blocks:
            x = x + 0.1 * inner(x)
        return self.out(self.upsample(x))

    blocks = nn.ModuleList(nn.Sequential(conv(8, 12), nn.ReLU(True), conv(12, 8)) for _ in range(2))
    upsample = nn.Sequential(conv(8, 32), nn.PixelShuffle(2), conv(8, 32), nn.PixelShuffle(2))
    return Net(forward, stem=conv(3, 8), blocks=blocks, upsample=upsample, out=conv(8, 3)), images(size=8)


@kind
def wavelet_by_slices():
    """Half-band sums and differences, beside each other."""

    def body(self, x):
        x = self.stem(x)
        even, odd = x[..., ::2], x[..., 1::2]
        return self.last(torch.cat([even + odd, even - odd], 1))

    return classifier(body, 12, stem=block(3, 8), last=block(16, 12)), images()


# gates


@kind
def squeeze_excitation_by_linear():
    def body(self, x):
        x = self.stem(x)
        scale = self.up(self.down(pooled(x)).relu()).sigmoid()
        return self.last(x * scale[:, :, None, None])

    return classifier(
        body, 12, stem=block(3, 16), down=nn.Linear(16, 4), up=nn.Linear(4, 16), last=block(16, 12)
    ), images()


@kind
def squeeze_excitation_by_einsum():
    def body(self, x):
        x = self.stem(x)
        scale = functional.hardsigmoid(self.up(functional.silu(self.down(x.mean((2, 3), True))))).squeeze()
        return self.last(torch.einsum("bchw,bc->bchw", x, scale))

    return classifier(body, 12, stem=block(3, 16), down=conv(16, 4, 1), up=conv(4, 16, 1), last=block(16, 12)), images()


@kind
def squeeze_excitation_expanded():
    def body(self, x):
        x = self.stem(x)
        scale = self.gate(functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)).view(x.size(0), x.size(1), 1, 1)
        return self.last(x * scale.expand_as(x) + x)

    gate = nn.Sequential(nn.Linear(16, 4), nn.ReLU(inplace=True), nn.Linear(4, 16), nn.Sigmoid())
    return classifier(body, 12, stem=block(3, 16), gate=gate, last=block(16, 12)), images()


@kind
def context_of_all_positions():
    """Softmax over the positions, then a product with the features (GCNet)."""

    def body(self, x):
        x = self.stem(x)
        weights = self.attend(x).flatten(2).softmax(-1)
        context = torch.bmm(x.flatten(2), weights.transpose(1, 2)).unsqueeze(-1)
        return self.last(x + self.up(self.down(context).relu()))

    layers = {"stem": block(3, 16), "attend": conv(16, 1, 1), "down": conv(16, 4, 1), "up": conv(4, 16, 1)}
    return classifier(body, 12, **layers, last=block(16, 12)), images()


@kind
def coordinate_attention():
    """Means along each axis, mixed, split again."""

    def body(self, x):
        x = self.stem(x)
        height, width = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        rows, columns = torch.split(self.mix(torch.cat([rows, columns], 2)), [height, width], 2)
        return self.last(x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid())

    layers = {"stem": block(3, 16), "mix": block(16, 8, 1), "rows": conv(8, 16, 1), "columns": conv(8, 16, 1)}
    return classifier(body, 12, **layers, last=block(16, 12)), images()


@kind
def gated_linear_units():
    """SwiGLU by one linear map and `chunk`, GEGLU by two."""

    def forward(self, x):
        gate, value = self.both(x).chunk(2, -1)
        x = x + self.down(functional.silu(gate) * value)
        return self.head(x + self.out(functional.gelu(self.gate(x)) * self.value(x)))

    layers = {"both": nn.Linear(12, 48), "down": nn.Linear(24, 12), "gate": nn.Linear(12, 16)}
    layers |= {"value": nn.Linear(12, 16), "out": nn.Linear(16, 12), "head": nn.Linear(12, 5)}
    return Net(forward, **layers), (torch.randn(2, 12),)


@kind
def gate_of_halves():
    """One half times the other, without an activation (NAFNet), with a layer norm over channels by hand."""

    def body(self, x):
        x = self.stem(x)
        mean = x.mean(1, keepdim=True)
        inner = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * self.weight
        first, second = self.up(inner).chunk(2, 1)
        return x + self.down(first * second) * self.beta

    layers = {"stem": conv(3, 12), "up": conv(12, 32, 1), "down": conv(16, 12, 1)}
    scales = {name: nn.Parameter(torch.randn(1, 12, 1, 1)) for name in ("weight", "beta")}
    return classifier(body, 12, **layers, **scales), images()


@kind
def mixture_of_kernels():
    """Weights mixed by the image (dynamic convolution), as one grouped convolution of the batch."""

    def body(self, x):
        x = self.stem(x)
        count, width, *size = x.shape
        mix = self.route(pooled(x)).softmax(1)
        weight = (mix @ self.weight.flatten(1)).view(count * 12, width, 3, 3)
        out = functional.conv2d(x.reshape(1, count * width, *size), weight, padding=1, groups=count)
        return self.last(out.view(count, 12, *size))

    layers = {"stem": block(3, 16), "route": nn.Linear(16, 4), "weight": nn.Parameter(torch.randn(4, 12, 16, 3, 3))}
    return classifier(body, 12, **layers, last=block(12, 12)), images()


# families in miniature


@kind
def resnet_d():
    """Three stem convolutions, and shortcuts that average before they project."""

    def body(self, x):
        x = self.stem(x)
        return functional.relu(self.inner(x) + self.shortcut(x))

    stem = nn.Sequential(block(3, 8, stride=2), block(8, 8), block(8, 16), nn.MaxPool2d(3, 1, 1))
    inner = nn.Sequential(block(16, 8, 1), block(8, 8, stride=2), conv(8, 24, 1, bias=False), nn.BatchNorm2d(24))
    shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), conv(16, 24, 1, bias=False), nn.BatchNorm2d(24))
    return classifier(body, 24, stem=stem, inner=inner, shortcut=shortcut), images()


@kind
def resnext_shuffled():
    """Grouped convolutions with a channel shuffle between."""

    def body(self, x):
        x = self.one(self.stem(x))
        count, width, height, length = x.shape
        x = x.view(count, 4, width // 4, height, length).transpose(1, 2).reshape(count, -1, height, length)
        return self.two(x)

    return classifier(body, 24, stem=block(3, 16), one=block(16, 16, groups=4), two=block(16, 24, groups=4)), images()


@kind
def repeated_branches():
    """A 3x3, a 1x1 and a norm alone, added (RepVGG)."""

    def body(self, x):
        x = self.stem(x)
        return functional.relu(self.three(x) + self.one(x) + self.norm(x))

    layers = {"three": nn.Sequential(conv(16, 16, bias=False), nn.BatchNorm2d(16)), "norm": nn.BatchNorm2d(16)}
    one = nn.Sequential(conv(16, 16, 1, bias=False), nn.BatchNorm2d(16))
    return classifier(body, 16, stem=block(3, 16), **layers, one=one), images()


@kind
def hierarchical_residuals():
    """Each quarter convolved after the one before was added (Res2Net)."""

    def body(self, x):
        parts = list(self.stem(x).chunk(4, 1))
        for index, layer in enumerate(self.layers):
            parts[index + 1] = layer(parts[index + 1] + (parts[index] if index else 0))
        return self.last(torch.cat(parts, 1))

    layers = nn.ModuleList(block(4, 4) for _ in range(3))
    return classifier(body, 12, stem=block(3, 16), layers=layers, last=block(16, 12, 1)), images()


@kind
def stochastic_depth():
    """Blocks dropped in training, whole in evaluation."""

    def body(self, x):
        x = self.stem(x)
        for inner in self.blocks:
            kept = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype) > 0.2 if self.training else 1.0
            x = x + inner(x) * kept
        return x

    return classifier(body, 16, stem=block(3, 16), blocks=nn.ModuleList(block(16, 16) for _ in range(2))), images()


@kind
def causal_convolutions():
    """Dilated convolutions of a signal padded on the left, with gates and skips (WaveNet)."""

    def forward(self, x):
        x, skips = self.stem(x), 0
        for rate, gate, out in zip((1, 2, 4), self.gates, self.outs, strict=True):
            both = gate(functional.pad(x, (rate, 0)))
            inner = torch.tanh(both[:, : both.shape[1] // 2]) * torch.sigmoid(both[:, both.shape[1] // 2 :])
            x = x + out(inner)
            skips = skips + inner
        return self.head(skips.relu())

    gates = nn.ModuleList(nn.Conv1d(8, 24, 2, dilation=rate) for rate in (1, 2, 4))
    outs = nn.ModuleList(nn.Conv1d(12, 8, 1) for _ in range(3))
    return Net(forward, stem=nn.Conv1d(1, 8, 1), gates=gates, outs=outs, head=nn.Conv1d(12, 3, 1)), (
        torch.randn(2, 1, 24),
    )


@kind
def chomped_convolutions():
    """Padded on both sides, the end cut off (temporal convolutional network)."""

    def forward(self, x):
        for one, two, rate in zip(self.ones, self.twos, (1, 2), strict=True):
            inner = functional.relu(one(x)[:, :, : -2 * rate].contiguous())
            inner = functional.relu(two(inner)[:, :, : -2 * rate])
            x = functional.relu(inner + (x if x.shape == inner.shape else self.match(x)))
        return self.head(x[:, :, -1])

    def layers(first):
        return nn.ModuleList(
            nn.Conv1d(first if rate == 1 else 12, 12, 3, padding=2 * rate, dilation=rate) for rate in (1, 2)
        )

    return Net(forward, ones=layers(4), twos=layers(12), match=nn.Conv1d(4, 12, 1), head=nn.Linear(12, 5)), (
        torch.randn(2, 4, 16),
    )


@kind
def video():
    """Space and time convolved after each other (R(2+1)D), then the frames in the batch."""

    def forward(self, x):
        x = self.time(self.space(x))
        count, width, frames, *size = x.shape
        x = self.frame(x.transpose(1, 2).reshape(count * frames, width, *size))
        return self.head(pooled(x).view(count, frames, -1).mean(1))

    space, time = nn.Conv3d(3, 12, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(12, 16, (3, 1, 1), padding=(1, 0, 0))
    layers = {"space": nn.Sequential(space, nn.BatchNorm3d(12), nn.ReLU()), "time": time, "frame": block(16, 12)}
    return Net(forward, **layers, head=nn.Linear(12, 5)), (torch.randn(2, 3, 4, 8, 8),)


@kind
def graph_convolution():
    """Over the joints of a skeleton by a fixed adjacency (ST-GCN)."""

    def forward(self, x):
        x = self.stem(x)
        x = torch.einsum("nctv,vw->nctw", x, self.adjacency).relu()
        return self.head(pooled(self.last(x)))

    layers = {"stem": nn.Conv2d(3, 16, 1), "last": nn.Sequential(nn.Conv2d(16, 12, (3, 1)), nn.ReLU())}
    return Net(forward, adjacency=torch.rand(6, 6), **layers, head=nn.Linear(12, 5)), (torch.randn(2, 3, 8, 6),)


@kind
def points_in_space():
    """Shared layers of each point, the largest beside each (PointNet segmentation)."""

    def forward(self, x):
        near = self.one(x)
        far = self.two(near).max(2, keepdim=True)[0]
        return self.head(torch.cat([near, far.repeat(1, 1, x.shape[2])], 1))

    def shared(inputs, outputs):
        return nn.Sequential(nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU())

    return Net(forward, one=shared(3, 12), two=shared(12, 16), head=nn.Conv1d(28, 4, 1)), (torch.randn(2, 3, 20),)


@kind
def weights_of_a_hypernetwork():
    """One layer's weights are another's output."""

    def body(self, x):
        x = self.stem(x)
        weight = self.make(self.code).view(12, 16, 3, 3)
        return self.last(functional.conv2d(x, weight, padding=1))

    layers = {"stem": block(3, 16), "make": nn.Linear(4, 12 * 16 * 9), "code": nn.Parameter(torch.randn(4))}
    return classifier(body, 12, **layers, last=block(12, 12)), images(size=8)


@kind
def style_modulated():
    """Channels scaled and shifted by a vector (FiLM, adaptive instance norm)."""

    def forward(self, x, style):
        scale, shift = self.style(style).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        x = functional.instance_norm(self.stem(x)) * (1 + scale) + shift
        return self.head(pooled(self.last(x)))

    layers = {"stem": conv(3, 16), "style": nn.Linear(6, 32), "last": block(16, 12), "head": nn.Linear(12, 5)}
    return Net(forward, **layers), (*images(), torch.randn(2, 6))


@kind
def head_tied_to_the_stem():
    """An autoencoder that decodes with its encoder's weights."""

    def forward(self, x):
        code = self.encode(x).relu()
        return functional.conv_transpose2d(code, self.encode.weight, stride=2, padding=1, output_padding=1)

    return Net(forward, encode=nn.Conv2d(3, 16, 3, 2, 1)), images()
