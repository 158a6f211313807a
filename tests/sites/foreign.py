"""Small models that nobody here wrote, from their configurations: MONAI and Hugging Face."""

import warnings

import pytest
import torch
from torch import nn

HF = "transformers is not installed: it is no dependency of qprobe"
MONAI = "MONAI is not installed: pip install 'qprobe[medical]'"
#: How large a model of tokens is here, in the words that most configurations use.
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def transformers():
    return pytest.importorskip("transformers", reason=HF)


def tokens():
    return {"input_ids": torch.randint(3, 64, (2, 7))}


def labelled():
    """Tokens, and what is to be made of them, which has another length."""
    return {**tokens(), "labels": torch.randint(3, 64, (2, 5))}


def images(side, channels=3):
    return {"pixel_values": torch.randn(2, channels, side, side)}


def llama(attention):
    hf = transformers()
    config = hf.LlamaConfig(**SMALL, num_key_value_heads=2, attn_implementation=attention)
    return hf.LlamaForCausalLM(config), tokens()


def qwen3(attention):
    """Heads share keys, queries and keys are normalised and rotated."""
    hf = transformers()
    config = hf.Qwen3Config(
        **SMALL,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return hf.Qwen3ForCausalLM(config), tokens()


def t5(attention):
    """Encoder and decoder share an embedding; logits are not scaled and get a learned bias."""
    hf = transformers()
    config = hf.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    return hf.T5ForConditionalGeneration(config), labelled()


#: An encoder and a decoder of two layers each.
BOTH = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def whisper(attention):
    """Convolutions before the encoder, whose keys the decoder keeps in a cache."""
    hf = transformers()
    config = hf.WhisperConfig(
        **BOTH,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attention,
    )
    batch = {"input_features": torch.randn(2, 8, 32), "labels": labelled()["labels"]}
    return hf.WhisperForConditionalGeneration(config), batch


def mamba(_):
    """Without its kernels it goes over the tokens one by one."""
    hf = transformers()
    config = hf.MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2)
    return hf.MambaForCausalLM(config), tokens()


def bart(attention):
    """An encoder and a decoder that takes what it is to make one place later."""
    hf = transformers()
    config = hf.BartConfig(**BOTH, max_position_embeddings=16, attn_implementation=attention)
    return hf.BartForConditionalGeneration(config), labelled()


def bert(attention):
    hf = transformers()
    config = hf.BertConfig(**SMALL, attn_implementation=attention)
    return hf.BertForSequenceClassification(config), tokens()


class EncoderDecoder(nn.Module):
    """PyTorch's own transformer, with a mask in the decoder."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Transformer(32, 4, 2, 2, 48, batch_first=True)

    def forward(self, src, tgt):
        ahead = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
        return self.inner(src, tgt, tgt_mask=ahead)


def encoder_decoder(_):
    return EncoderDecoder(), {"src": torch.randn(2, 7, 32), "tgt": torch.randn(2, 5, 32)}


def gpt2(attention):
    hf = transformers()
    config = hf.GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    batch = tokens()
    return hf.GPT2LMHeadModel(config), {**batch, "labels": batch["input_ids"]}


def vit(attention):
    hf = transformers()
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        attn_implementation=attention,
    )
    return hf.ViTForImageClassification(config), images(32)


def segformer(attention):
    hf = transformers()
    config = hf.SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=16,
        num_attention_heads=[1, 2, 3, 4],
        attn_implementation=attention,
    )
    return hf.SegformerForSemanticSegmentation(config), images(64)


def swin(attention):
    hf = transformers()
    config = hf.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        attn_implementation=attention,
    )
    return hf.SwinModel(config), images(32)


def unet(_):
    nets = pytest.importorskip("monai.networks.nets", reason=MONAI)
    model = nets.UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        channels=(4, 8, 16),
        strides=(2, 2),
        num_res_units=2,
    )
    return model, {"x": torch.randn(2, 1, 32, 32)}


def swin_unetr(_):
    nets = pytest.importorskip("monai.networks.nets", reason=MONAI)
    model = nets.SwinUNETR(
        in_channels=1,
        out_channels=2,
        feature_size=12,
        spatial_dims=2,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
    )
    return model, {"x_in": torch.randn(2, 1, 64, 64)}


def unetr(_):
    nets = pytest.importorskip("monai.networks.nets", reason=MONAI)
    model = nets.UNETR(
        in_channels=1,
        out_channels=2,
        img_size=32,
        feature_size=4,
        hidden_size=32,
        mlp_dim=48,
        num_heads=4,
        spatial_dims=2,
    )
    return model, {"x_in": torch.randn(2, 1, 32, 32)}


def rt_detr(_):
    hf = transformers()
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 24, 32],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_denoising=0,
        num_labels=3,
    )
    return hf.RTDetrModel(config), images(64)


def made(make, attention):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(attention)
