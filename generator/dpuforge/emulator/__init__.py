"""The quantizer emulator: AMD's PyTorch quantizer (vai_q_pytorch 3.5) reproduced bit for bit, with torch alone."""
