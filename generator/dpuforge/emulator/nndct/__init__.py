"""The API of AMD's quantizer over the emulator: classes, log lines, files, options, fine-tuning, QAT."""
