"""Networks of transformers and MONAI for more tasks: segmentation, detection, depth, sound, text, registration."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import torch
from built import CUBE, FLAT, HEADS, PYRAMID, SWIN, Built, of_monai
from torch import Tensor, nn

SIZES = {
    "hidden_sizes": [8, 12, 16, 24],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
ENCODER = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
SOUND = {"conv_dim": [16, 16, 24], "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 16}
SOUND |= {"num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16, "num_labels": 10}


class Of(nn.Module):
    """A network by a function of it and the inputs, such as one of its methods."""

    def __init__(self, network: nn.Module, run: Callable[..., object]):
        super().__init__()
        self.network, self.run = network, run

    def forward(self, *inputs: Tensor) -> object:
        """What the function gives."""
        return self.run(self.network, *inputs)


def whole(
    model: str,
    *inputs: Tensor,
    run: Callable[..., object] | None = None,
    parts: Mapping[str, tuple[str, Mapping[str, object]]] | None = None,
    **options: object,
) -> Callable[[], Built]:
    """A constructor of a transformers class with all its outputs; inputs: its example.

    run: how it is called; parts: configurations that its own holds, by its argument, as their class and options
    """

    def build() -> Built:
        transformers = importlib.import_module("transformers")
        kind = getattr(transformers, model)
        held = {name: getattr(transformers, part)(**values) for name, (part, values) in (parts or {}).items()}
        network = kind(kind.config_class(**held, **options))
        return Of(network, run or (lambda network, *given: network(*given))), inputs

    return build


def image(size: int = 32, channels: int = 3) -> Tensor:
    """Two images of noise, always the same."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


def sound(*shape: int) -> Tensor:
    """Noise, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def tokens(*shape: int) -> Tensor:
    """Numbers of words below 50, always the same."""
    return torch.randint(1, 50, shape, generator=torch.Generator().manual_seed(2))


def logits(network: nn.Module, *inputs: Tensor) -> object:
    """The scores alone."""
    return network(*inputs).logits


RESNET = {"backbone_config": ("ResNetConfig", {"embedding_size": 8, "layer_type": "basic", **SIZES})}
DETECTOR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "num_labels": 5}
DETECTOR |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 6}
NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

TRANSFORMERS = {
    "UPerNet on ConvNeXt": whole(
        "UperNetForSemanticSegmentation",
        image(64),
        parts={"backbone_config": ("ConvNextConfig", SIZES)},
        hidden_size=16,
        pool_scales=[1, 2],
        use_auxiliary_head=True,
        auxiliary_in_channels=16,
        auxiliary_channels=8,
        num_labels=3,
        run=logits,
    ),
    "UPerNet on Swin": whole(
        "UperNetForSemanticSegmentation",
        image(),
        parts={"backbone_config": ("SwinConfig", {**SWIN, "out_features": ["stage1", "stage2"]})},
        hidden_size=16,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        num_labels=3,
        run=logits,
    ),
    "DPT": whole(
        "DPTForDepthEstimation",
        image(),
        image_size=32,
        patch_size=8,
        neck_hidden_sizes=[8, 12, 16, 24],
        fusion_hidden_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        run=lambda network, x: network(x).predicted_depth,
        **ENCODER,
    ),
    "GLPN": whole(
        "GLPNForDepthEstimation",
        image(64),
        decoder_hidden_size=16,
        run=lambda network, x: network(x).predicted_depth,
        **HEADS,
        **{key: value for key, value in PYRAMID.items() if key != "num_labels"},
    ),
    "DETR": whole(
        "DetrForObjectDetection",
        image(64),
        parts=RESNET,
        run=lambda network, x: (network(x).logits, network(x).pred_boxes),
        **NO_TIMM,
        **DETECTOR,
    ),
    "Conditional DETR": whole(
        "ConditionalDetrForObjectDetection",
        image(64),
        parts=RESNET,
        run=lambda network, x: network(x).logits,
        **NO_TIMM,
        **DETECTOR,
    ),
    "YOLOS": whole(
        "YolosForObjectDetection",
        image(),
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=5,
        num_labels=5,
        use_mid_position_embeddings=False,
        run=lambda network, x: (network(x).logits, network(x).pred_boxes),
        **ENCODER,
    ),
    "BEiT, segmentation": whole(
        "Data2VecVisionForSemanticSegmentation",
        image(),
        image_size=32,
        patch_size=8,
        out_indices=[1, 2, 3, 4],
        use_auxiliary_head=False,
        num_labels=3,
        run=logits,
        **ENCODER,
    ),
    "TextNet": whole(
        "TextNetForImageClassification",
        image(64),
        stem_out_channels=16,
        conv_layer_kernel_sizes=[[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
        conv_layer_strides=[[1], [2], [2], [2]],
        hidden_sizes=[16, 16, 24, 32, 40],
        num_labels=10,
        run=logits,
    ),
    "Hiera": whole(
        "HieraForImageClassification",
        image(64),
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        num_layers=3,
        num_query_pool=2,
        masked_unit_size=[4, 4],
        embed_dim_multiplier=2.0,
        num_labels=10,
        run=logits,
    ),
    "SAM, vision": whole(
        "SamVisionModel",
        image(64),
        image_size=64,
        patch_size=8,
        output_channels=16,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=64,
        num_pos_feats=8,
        run=lambda network, x: network(x).last_hidden_state,
        **{key: value for key, value in ENCODER.items() if key != "intermediate_size"},
    ),
    "DINOv3, ConvNeXt": whole(
        "DINOv3ConvNextModel",
        image(64),
        hidden_sizes=[8, 12, 16, 24],
        depths=[1, 1, 1, 1],
        run=lambda network, x: network(x).pooler_output,
    ),
    "VideoMAE": whole(
        "VideoMAEForVideoClassification",
        sound(2, 4, 3, 32, 32),
        image_size=32,
        patch_size=8,
        num_frames=4,
        num_labels=10,
        run=logits,
        **ENCODER,
    ),
    "TimeSformer": whole(
        "TimesformerForVideoClassification",
        sound(2, 4, 3, 32, 32),
        image_size=32,
        patch_size=8,
        num_frames=4,
        num_labels=10,
        run=logits,
        **ENCODER,
    ),
    "ViTMatte": whole(
        "VitMatteForImageMatting",
        image(32, 4),
        parts={
            "backbone_config": (
                "VitDetConfig",
                {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "image_size": 32,
                    "patch_size": 16,
                    "num_channels": 4,
                    "out_features": ["stage2"],
                },
            )
        },
        hidden_size=32,
        convstream_hidden_sizes=[8, 12, 16],
        fusion_hidden_sizes=[24, 16, 12, 8],
        run=lambda network, x: network(x).alphas,
    ),
    "CLIP, vision": whole(
        "CLIPVisionModelWithProjection",
        image(),
        image_size=32,
        patch_size=8,
        projection_dim=16,
        run=lambda network, x: network(x).image_embeds,
        **ENCODER,
    ),
    "SigLIP, vision": whole(
        "SiglipVisionModel",
        image(),
        image_size=32,
        patch_size=8,
        run=lambda network, x: network(x).pooler_output,
        **ENCODER,
    ),
    "HuBERT": whole("HubertForSequenceClassification", sound(2, 1600), run=logits, **SOUND, **ENCODER),
    "SEW": whole("SEWForSequenceClassification", sound(2, 1600), run=logits, squeeze_factor=2, **SOUND, **ENCODER),
    "WavLM": whole("WavLMForSequenceClassification", sound(2, 1600), run=logits, **SOUND, **ENCODER),
    "Whisper": whole(
        "WhisperForAudioClassification",
        sound(2, 16, 40),
        num_mel_bins=16,
        max_source_positions=20,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        classifier_proj_size=16,
        num_labels=10,
        run=logits,
    ),
    "Audio spectrogram": whole(
        "ASTForAudioClassification",
        sound(2, 32, 16),
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        run=logits,
        **ENCODER,
    ),
    "EnCodec": whole(
        "EncodecModel",
        sound(2, 1, 320),
        num_filters=4,
        upsampling_ratios=[4, 2],
        hidden_size=16,
        codebook_dim=16,
        norm_type="weight_norm",
        run=lambda network, x: network.decoder(network.encoder(x)),
    ),
    "DAC": whole(
        "DacModel",
        sound(2, 1, 320),
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        decoder_hidden_size=32,
        upsampling_ratios=[4, 2],
        hidden_size=32,
        run=lambda network, x: network.decoder(network.encoder(x)),
    ),
    "HiFi-GAN": whole(
        "SpeechT5HifiGan",
        sound(2, 20, 16),
        model_in_dim=16,
        upsample_initial_channel=32,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3], [1, 3]],
        normalize_before=False,
    ),
    "Mamba": whole(
        "MambaModel",
        tokens(2, 12),
        vocab_size=50,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        use_cache=False,
        run=lambda network, x: network(x).last_hidden_state,
    ),
    "ConvBERT": whole(
        "ConvBertForSequenceClassification",
        tokens(2, 12),
        vocab_size=50,
        embedding_size=32,
        head_ratio=2,
        conv_kernel_size=3,
        num_labels=10,
        run=logits,
        **ENCODER,
    ),
    "BERT": whole("BertForSequenceClassification", tokens(2, 12), vocab_size=50, num_labels=10, run=logits, **ENCODER),
    "Llama": whole(
        "LlamaForSequenceClassification",
        tokens(2, 12),
        vocab_size=50,
        num_key_value_heads=2,
        pad_token_id=0,
        num_labels=10,
        run=lambda network, x: network.model(x, use_cache=False).last_hidden_state,
        **ENCODER,
    ),
}


def reconstructed(network: nn.Module, x: Tensor) -> object:
    """The first of its outputs."""
    return network(x)[0]


def monai(
    name: str, *shapes: tuple[int, ...], run: Callable[..., object] | None = None, **options: object
) -> Callable[[], Built]:
    """A constructor of a MONAI network with inputs of these shapes; run: how it is called."""

    def build() -> Built:
        network = getattr(importlib.import_module("monai.networks.nets"), name)(**options)
        inputs = tuple(torch.randn(*shape) if shape != (2,) else torch.tensor([10, 20]) for shape in shapes)
        return Of(network, run or (lambda network, *given: network(*given))), inputs

    return build


DIFFUSION = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (8, 16), "num_res_blocks": (1, 1)}
DIFFUSION |= {"attention_levels": (False, True), "norm_num_groups": 4, "num_head_channels": 8}

MONAI = {
    "AttentionUnet, 3-D": of_monai("AttentionUnet", 2, 1, 16, 16, 16, channels=(8, 16), strides=(2,), **CUBE),
    "BasicUNet, pixel shuffle": of_monai(
        "BasicUNet", 2, 1, 32, 32, features=(8, 8, 16, 16, 24, 8), upsample="pixelshuffle", norm="batch", **FLAT
    ),
    "BasicUNet, group norm": of_monai(
        "BasicUNet", 2, 1, 32, 32, features=(8, 8, 16, 16, 24, 8), norm=("group", {"num_groups": 4}), **FLAT
    ),
    "U-Net, 1-D": of_monai(
        "UNet", 2, 1, 32, spatial_dims=1, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,), norm="batch"
    ),
    "DynUNet, deep supervision": of_monai(
        "DynUNet",
        *(2, 1, 32, 32),
        kernel_size=[3, 3, 3, 3],
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        filters=[8, 12, 16, 24],
        deep_supervision=True,
        trans_bias=True,
        **FLAT,
    ),
    "SegResNetDS": of_monai("SegResNetDS", 2, 1, 32, 32, init_filters=8, blocks_down=(1, 1, 1), **FLAT),
    "SegResNetVAE": monai(
        "SegResNetVAE",
        (2, 1, 32, 32),
        input_image_size=(32, 32),
        init_filters=8,
        blocks_down=(1, 1, 1),
        blocks_up=(1, 1),
        run=lambda network, x: network(x)[0],
        **FLAT,
    ),
    "RegUNet": of_monai(
        "RegUNet", 2, 2, 32, 32, spatial_dims=2, in_channels=2, num_channel_initial=8, depth=2, out_channels=2
    ),
    "LocalNet": of_monai(
        "LocalNet",
        *(2, 2, 32, 32),
        spatial_dims=2,
        in_channels=2,
        num_channel_initial=8,
        extract_levels=(0, 1),
        out_channels=2,
    ),
    "VoxelMorph U-Net": of_monai(
        "VoxelMorphUNet",
        2,
        2,
        32,
        32,
        spatial_dims=2,
        in_channels=2,
        unet_out_channels=8,
        channels=(8, 16, 16, 16, 8, 8),
        final_conv_channels=(8,),
    ),
    "Diffusion U-Net": monai("DiffusionModelUNet", (2, 1, 16, 16), (2,), **DIFFUSION),
    "Diffusion U-Net, conditioned": monai(
        "DiffusionModelUNet",
        *((2, 1, 16, 16), (2,), (2, 3, 6)),
        **DIFFUSION,
        with_conditioning=True,
        cross_attention_dim=6,
        resblock_updown=True,
    ),
    "ControlNet": monai(
        "ControlNet",
        *((2, 1, 16, 16), (2,), (2, 1, 16, 16)),
        run=lambda network, x, t, c: network(x, t, c),
        conditioning_embedding_num_channels=(8,),
        **{key: value for key, value in DIFFUSION.items() if key != "out_channels"},
    ),
    "SPADENet": monai(
        "SPADENet",
        (2, 3, 32, 32),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        label_nc=3,
        input_shape=[32, 32],
        channels=[8, 16],
        is_vae=False,
    ),
    "VQ-VAE": monai(
        "VQVAE",
        (2, 1, 16, 16),
        run=lambda network, x: network.decode(network.encode(x)),
        channels=(8, 16),
        num_res_layers=1,
        num_res_channels=(8, 12),
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=8,
        embedding_dim=8,
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
    ),
    "Generator": of_monai(
        "Generator", 2, 6, latent_shape=(6,), start_shape=(8, 4, 4), channels=(8, 12), strides=(2, 2)
    ),
    "Regressor": of_monai(
        "Regressor", 2, 1, 16, 16, in_shape=(1, 16, 16), out_shape=(3,), channels=(8, 12), strides=(2, 2)
    ),
    "Classifier": of_monai(
        "Classifier", 2, 1, 16, 16, in_shape=(1, 16, 16), classes=4, channels=(8, 12), strides=(2, 2), norm="batch"
    ),
    "Autoencoder, residual, 3-D": of_monai(
        "AutoEncoder", 2, 1, 16, 16, 16, channels=(8, 12), strides=(2, 2), num_res_units=1, inter_channels=(12,), **CUBE
    ),
    "ResNet features": of_monai(
        "ResNet",
        *(2, 1, 32, 32),
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 12, 16, 24],
        spatial_dims=2,
        n_input_channels=1,
        shortcut_type="A",
        num_classes=5,
    ),
    "ViT autoencoder": monai(
        "ViTAutoEnc",
        (2, 1, 32, 32),
        in_channels=1,
        img_size=(32, 32),
        patch_size=(4, 4),
        hidden_size=32,
        mlp_dim=48,
        num_layers=2,
        num_heads=4,
        deconv_chns=8,
        spatial_dims=2,
        run=reconstructed,
    ),
    "MedNeXt, 2-D, residual": of_monai(
        "MedNeXt",
        2,
        1,
        32,
        32,
        init_filters=8,
        blocks_down=(1, 1),
        blocks_up=(1, 1),
        use_residual_connection=True,
        **FLAT,
    ),
    "Fully connected": of_monai("FullyConnectedNet", 2, 20, in_channels=20, out_channels=4, hidden_channels=(16, 12)),
    "Mask transformer decoder": monai(
        "DecoderOnlyTransformer",
        (2, 1, 32, 32),
        num_tokens=50,
        max_seq_len=16,
        attn_layers_dim=16,
        attn_layers_depth=2,
        attn_layers_heads=2,
        run=lambda network, x: network(x.flatten(1)[:, :12].abs().clamp(max=9).long()),
    ),
}
