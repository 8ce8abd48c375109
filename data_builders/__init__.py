"""Builders that turn raw datasets (real or generated) into the tables and instructions that training reads."""
