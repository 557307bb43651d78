#include "cli/arguments.h"

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace choir::cli {
namespace {

// A verb with its help, one worked example, and the options that all verbs share.
CLI::App* add_verb(CLI::App& app, Call& call, const std::string& name, const std::string& purpose,
                   const std::string& example) {
  CLI::App* verb = app.add_subcommand(name, purpose);
  verb->footer("Example:\n  " + example);
  verb->add_option("--threads", call.common.threads, "threads to compute with; 0 takes every processor")
      ->check(CLI::Range(0, 1024));
  verb->add_flag("--pin", call.common.pin, "every thread stays on a processor of its own, of different cores first");
  verb->add_option("--seed", call.common.seed, "seed of everything random");
  verb->add_flag("--json", call.common.json, "print one JSON object on stdout and nothing else there");
  return verb;
}

void add_model(CLI::App* verb, std::string& model) {
  verb->add_option("MODEL", model, "directory with config.json and safetensors")->required();
}

void add_out(CLI::App* verb, std::string& out, bool& force) {
  verb->add_option("--out", out, "where the result goes")->required();
  verb->add_flag("--force", force, "replace what stands there");
}

void add_calibration(CLI::App* verb, Calibration& c) {
  CLI::Option* files = verb->add_option("--calibrate", c.files, "text files to calibrate on");
  CLI::Option* ids = verb->add_option("--ids", c.ids, "token ids instead: FILE[:TENSOR], I64 [B,T] or [S,B,T]");
  files->excludes(ids);
  verb->add_option("--sequences", c.sequences, "blocks of text to take; otherwise all there are, up to 128")
      ->check(CLI::PositiveNumber)
      ->excludes(ids);
  verb->add_option("--length", c.length, "tokens of a block")->check(CLI::PositiveNumber)->excludes(ids);
  verb->add_option("--batch", c.batch, "blocks of a batch: losses are summed over batches")
      ->check(CLI::PositiveNumber)
      ->excludes(ids);
}

void add_skip_word(CLI::App* verb, std::string& skip) {
  verb->add_option("--skip", skip,
                   "when a token goes without an expert, in place of the model's own rule: none, count=2, tail=0.3, "
                   "ser=0.2, or for two experts a token 0.5");
}

void add_trace(CLI::App* verb, TraceFile& trace) {
  CLI::Option* file = verb->add_option("--trace", trace.path,
                                       "FILE.json for when each operator ran, for chrome://tracing or ui.perfetto.dev");
  verb->add_flag("--force", trace.force, "replace the file that stands there")->needs(file);
}

CLI::App* add_inspect(CLI::App& app, Call& call, Inspect& o) {
  CLI::App* verb = add_verb(app, call, "inspect", "what a model holds", "choir inspect models/choir-tiny");
  add_model(verb, o.model);
  return verb;
}

CLI::App* add_forward(CLI::App& app, Call& call, Forward& o) {
  CLI::App* verb = add_verb(app, call, "forward", "logits of given token ids",
                            "choir forward models/choir-tiny --ids ids.safetensors --out logits.safetensors --trace");
  add_model(verb, o.model);
  verb->add_option("--ids", o.ids, "FILE[:TENSOR], I64 [B,T]; the tensor is input_ids unless named")->required();
  add_out(verb, o.out, o.force);
  verb->add_flag("--trace", o.trace, "also write router logits and choices of every layer");
  return verb;
}

void add_exact(CLI::App* verb, bool& exact) {
  verb->add_flag("--exact", exact,
                 "multiply quantised weights with activations in full precision: slower, and what the numbers of the "
                 "file mean to the last digit");
}

CLI::App* add_generate(CLI::App& app, Call& call, Generate& o) {
  CLI::App* verb = add_verb(app, call, "generate", "continue a prompt",
                            "choir generate models/choir-tiny --prompt 'The purpose of this' -n 80 --temperature 0.8");
  add_model(verb, o.model);
  CLI::Option_group* what = verb->add_option_group("what to continue");
  what->add_option("--prompt", o.prompt, "text");
  what->add_option("--ids", o.ids, "token ids: 1,2,3")->delimiter(',');
  what->require_option(1);
  verb->add_option("-n,--tokens", o.count, "tokens to make at most")->check(CLI::NonNegativeNumber);
  verb->add_option("--temperature", o.temperature, "0 takes the likeliest token");
  verb->add_option("--top-k", o.top_k, "draw from the k likeliest; 0: from all");
  verb->add_option("--top-p", o.top_p, "draw from the likeliest that together have this probability");
  verb->add_option("--min-p", o.min_p, "draw from those with this share of the likeliest's probability");
  verb->add_flag("--ignore-end", o.ignore_end, "go on after an end-of-text token");
  add_skip_word(verb, o.skip);
  add_exact(verb, o.exact);
  add_trace(verb, o.trace);
  return verb;
}

CLI::App* add_bench(CLI::App& app, Call& call, Bench& o) {
  CLI::App* verb =
      add_verb(app, call, "bench", "how fast a model is, operator by operator, beside what the machine can do",
               "choir bench models/choir-tiny --prefill 256 --trace trace.json");
  add_model(verb, o.model);
  verb->add_option("--prefill", o.prefill, "random tokens to read at once; 512, or what the model takes")
      ->check(CLI::PositiveNumber);
  verb->add_option("--decode", o.decode, "tokens to read after them, one by one; 64, or an eighth of what it takes")
      ->check(CLI::PositiveNumber);
  verb->add_option("--repeats", o.repeats, "times to measure; medians are shown")->check(CLI::Range(1, 1000));
  add_exact(verb, o.exact);
  add_trace(verb, o.trace);
  return verb;
}

CLI::App* add_eval(CLI::App& app, Call& call, Eval& o) {
  CLI::App* verb = add_verb(app, call, "eval", "perplexity, multiple choice, or distance to another model",
                            "choir eval pruned --against models/choir-tiny --text README.md");
  add_model(verb, o.model);
  CLI::Option* text = verb->add_option("--text", o.text, "files to measure on");
  CLI::Option* choices = verb->add_option("--choices", o.choices, "JSONL of {context, choices, gold}");
  verb->add_option("--against", o.against, "the other model")->needs(text)->excludes(choices);
  verb->add_option("--context", o.context, "tokens of a window")->check(CLI::PositiveNumber);
  verb->add_option("--router", o.router, "another router over the same gate, in every layer");
  add_skip_word(verb, o.skip);
  add_exact(verb, o.exact);
  choices->excludes(text);
  return verb;
}

void add_held_out(CLI::App* verb, std::vector<std::string>& files, int& context,
                  const std::string& otherwise = "the last fifth of the calibration's blocks") {
  verb->add_option("--held-out", files, "text to judge by; otherwise " + otherwise);
  verb->add_option("--context", context, "tokens of a window of held-out text")->check(CLI::PositiveNumber);
}

void add_prune_choice(CLI::App* verb, Prune& o) {
  verb->add_option("--keep", o.keep,
                   "experts to keep: a number or a share of them (0.75, rounded to the nearest number), for all layers "
                   "or for each: 6,4,6,8")
      ->delimiter(',');
  verb->add_option("--keep-total", o.keep_total, "experts to keep in all layers together, where they lose least")
      ->check(CLI::PositiveNumber);
  verb->add_option("--budget", o.budget, "bytes that the model may have: 6GB, 500MiB");
  verb->add_option(
          "--share", o.share,
          "how --keep-total is shared by the layers. loss: where they lose least (default); score: one ranking "
          "of all experts by the score of --method, as SEER-MoE has it")
      ->check(CLI::IsMember({"loss", "score"}));
  verb->add_option("--slack", o.slack, "under a budget or a total, experts above top-k that every layer keeps")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--uniform", o.uniform, "under a budget or a total, the same number in every layer");
  verb->add_flag("--pad", o.pad,
                 "fill every layer up to the largest number with experts that are never chosen, for programs that read "
                 "one number; needs a router with a bias");
  verb->add_option("--neurons", o.neurons,
                   "share of the hidden neurons of the experts that stay, those of least effect go; with --keep or "
                   "without")
      ->check(CLI::Range(1e-6, 1.0));
  verb->add_option("--method", o.method,
                   "exact: the least error of all sets (default where it fits); search: elimination, swaps and "
                   "restarts (default elsewhere); nested: elimination alone; genetic; sampled; or by a score: random, "
                   "frequency, mass, ean, reap, man, msan, seer, easy_ep");
  verb->add_option(
          "--objective", o.objective,
          "what a search makes small: the squared error of all tokens (published), beside each token's output, "
          "beside the stream, or times the squared gradient of the model's loss (one more pass, in float)")
      ->check(CLI::IsMember({"published", "output", "stream", "gradient"}));
  CLI::Option* block =
      verb->add_option("--block", o.block,
                       "so many layers in a row choose among each one's best sets by what they put out together, as "
                       "MoE-I2 does; with exact, search or genetic")
          ->check(CLI::Range(1, 8));
  verb->add_option("--candidates", o.candidates, "sets of each layer of a block; 3 unless said")
      ->check(CLI::Range(1, 16))
      ->needs(block);
  verb->add_option(
          "--pin-super", o.pin_super,
          "keep experts whose largest answer is so many times the median of the layer's; 0: pin none; 10 unless "
          "the published search chooses, which pins none")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--samples", o.samples, "sets that --method sampled draws")->check(CLI::PositiveNumber);
  verb->add_option("--prove", o.prove_nodes, "after a search, partial sets to bound for a proof that it is the best")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--progressive", o.progressive, "each layer sees the inputs of the layers pruned before it");
  verb->add_flag("--all-losses", o.all_losses, "report the loss of every subset");
}

void add_prune_files(CLI::App* verb, Prune& o) {
  CLI::Option* capture = verb->add_option("--capture", o.capture,
                                          "directory of what the layers did with the text: made, gone on with, or used "
                                          "as it is");
  verb->add_flag("--capture-only", o.capture_only, "stop when the capture is finished")->needs(capture);
  verb->add_option("--capture-tokens", o.capture_tokens, "tokens to calibrate on at most, in whole sequences")
      ->check(CLI::PositiveNumber);
  verb->add_option("--memory", o.memory,
                   "bytes that calibrating may take besides the model, 2GB: as many whole sequences as fit");
  verb->add_option("--enough", o.enough,
                   "calibrate on no more sequences than give every expert so many tokens; one more forward tells")
      ->check(CLI::PositiveNumber);
  verb->add_option("--capture-least", o.capture_least,
                   "the fewest experts of a layer that the capture is to serve; otherwise a quarter of them")
      ->check(CLI::PositiveNumber)
      ->needs(capture);
  verb->add_option("--save-plan", o.save_plan, "write what was chosen as a plan; nested methods give every count");
  verb->add_option("--plan", o.plan, "keep what a plan says, without calibration");
  verb->add_flag("--repair", o.repair,
                 "try repairs and keep those that lower the divergence on text held out: all, or --repair=drop,novice,"
                 "merge,scalar,ridge");
  verb->add_option("--hold-out", o.hold_out,
                   "share of the calibration sequences, from the end, that only measure the result; 0.1 for repairs, "
                   "0.2 to explore")
      ->check(CLI::Range(0.0, 0.9));
  verb->add_option("--least-tokens", o.least_tokens, "name the experts that saw fewer calibration tokens")
      ->check(CLI::NonNegativeNumber);
}

// With --explore the verb prune writes no model, and tries methods and counts of its own.
void add_explore(CLI::App* verb, Explore& o) {
  CLI::Option* explore =
      verb->add_flag("--explore", o.asked, "write no model: measure the frontier of smaller ones on held-out text");
  for (const char* name : {"--out",        "--pad",           "--neurons",    "--memory",       "--keep",
                           "--keep-total", "--budget",        "--share",      "--slack",        "--uniform",
                           "--method",     "--objective",     "--block",      "--candidates",   "--samples",
                           "--prove",      "--progressive",   "--all-losses", "--capture-only", "--capture-tokens",
                           "--enough",     "--capture-least", "--save-plan",  "--plan",         "--repair"})
    explore->excludes(verb->get_option(name));
  const CLI::Range share(1e-6, 1.0);
  verb->add_option("--keep-ratios", o.keep_ratios, "shares of the experts to keep: 0.75,0.5")
      ->delimiter(',')
      ->check(share)
      ->needs(explore);
  verb->add_option("--skip-shares", o.skip_shares, "shares of the expert evaluations to keep: 0.8,0.6")
      ->delimiter(',')
      ->check(share)
      ->needs(explore);
  verb->add_option("--draws", o.draws, "random models at each ratio, whose mean is told")
      ->check(CLI::Range(1, 1000))
      ->needs(explore);
  verb->add_flag("--combine", o.combine, "also skip in each model that the search prunes")->needs(explore);
  add_held_out(verb, o.held_out, o.context);
  verb->get_option("--held-out")->needs(explore);
  verb->get_option("--context")->needs(explore);
  verb->add_option("--choices", o.choices, "JSONL of {context, choices, gold} to answer too")->needs(explore);
  verb->add_option("--page", o.page, "FILE.html for the frontier as charts")->needs(explore);
  verb->add_option("--rounds", o.rounds, "timed runs of each model; 0: none")
      ->check(CLI::Range(0, 1000))
      ->needs(explore);
}

CLI::App* add_prune(CLI::App& app, Call& call, Prune& o) {
  CLI::App* verb = add_verb(app, call, "prune", "drop the experts that matter least",
                            "choir prune models/choir-tiny --out small --keep 6 --calibrate docs/*.md");
  add_model(verb, o.model);
  verb->add_option("--out", o.out, "where the result goes");
  verb->add_flag("--force", o.force, "replace what stands there");
  add_prune_choice(verb, o);
  add_calibration(verb, o.calibration);
  add_prune_files(verb, o);
  add_explore(verb, o.explore);
  return verb;
}

CLI::App* add_fit(CLI::App& app, Call& call, Fit& o) {
  CLI::App* verb = add_verb(app, call, "fit", "the best model of a size: fewer experts or fewer bits",
                            "choir fit models/choir-tiny --budget 12MB --calibrate docs/*.md --out small");
  add_model(verb, o.model);
  verb->add_option("--budget", o.budget, "bytes of the file of weights, 6GB or 900MB, or a share of the present: 0.5")
      ->required();
  CLI::Option* out = verb->add_option("--out", o.out, "where the best model goes; otherwise it is only named");
  verb->add_flag("--force", o.force, "replace what stands there")->needs(out);
  add_held_out(verb, o.held_out, o.context);
  add_calibration(verb, o.calibration);
  return verb;
}

CLI::App* add_merge_captures(CLI::App& app, Call& call, MergeCaptures& o) {
  CLI::App* verb = add_verb(app, call, "merge-captures", "put captures of one model on several texts together",
                            "choir merge-captures on-prose on-code --out on-both");
  verb->add_option("CAPTURE", o.from, "directories that choir prune --capture made")->required();
  verb->add_option("--out", o.out, "the new capture, or one that was stopped half-way")->required();
  return verb;
}

CLI::App* add_skip(CLI::App& app, Call& call, Skip& o) {
  CLI::App* verb = add_verb(app, call, "skip", "find when a token can go without some of its experts",
                            "choir skip models/choir-tiny --out skipping --budget 0.7 --calibrate docs/*.md");
  add_model(verb, o.model);
  add_out(verb, o.out, o.force);
  verb->add_option(
          "--method", o.method,
          "what a threshold compares. median: the published one, half of the second experts are skipped; with a "
          "budget tail: the weight of all that would be skipped (default), ser: each weight beside the best, "
          "ratio: that of the second beside the first")
      ->check(CLI::IsMember({"median", "tail", "ser", "ratio"}));
  CLI::Option* budget = verb->add_option("--budget", o.budget, "mean share of the expert evaluations that stay")
                            ->check(CLI::Range(1e-6, 1.0));
  CLI::Option* own =
      verb->add_flag("--own-gains", o.own_gains, "keep the model's weights as they are when experts are skipped")
          ->needs(budget);
  add_held_out(verb, o.held_out, o.context, "gains are chosen by the error of each layer on the calibration text");
  verb->get_option("--held-out")->needs(budget)->excludes(own);
  verb->add_option("--hold-out", o.hold_out, "the same with a share of the calibration sequences, from the end")
      ->check(CLI::Range(1e-6, 0.9))
      ->needs(budget)
      ->excludes(own)
      ->excludes("--held-out");
  add_calibration(verb, o.calibration);
  return verb;
}

CLI::App* add_convert(CLI::App& app, Call& call, Convert& o) {
  CLI::App* verb = add_verb(app, call, "convert", "the same model in another file format or number format",
                            "choir convert models/choir-tiny --out choir-tiny.gguf --dtype q8_0");
  add_model(verb, o.model);
  add_out(verb, o.out, o.force);
  verb->add_option("--to", o.to,
                   "gguf: one file, as llama.cpp reads it; safetensors or hf: a directory; otherwise as --out ends")
      ->check(CLI::IsMember({"gguf", "safetensors", "hf"}));
  verb->add_option("--dtype,--type", o.type, "format of the numbers; otherwise what they have")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_0"}));
  verb->add_flag(
      "--packed", o.packed,
      "a directory for choir alone, its weights in the order that products read fastest: nothing is packed or "
      "copied when it is loaded; takes every --dtype");
  return verb;
}

CLI::App* add_train(CLI::App& app, Call& call, Train& o) {
  CLI::App* verb =
      add_verb(app, call, "train", "train a model from text", "choir train --config train.json --data texts --out run");
  verb->add_option("--config", o.config, "JSON with model, tokenizer, data and training")->required();
  verb->add_option("--out", o.out, "directory of the run, a model when done")->required();
  verb->add_option("--data", o.data, "what the config's paths are relative to; the config's directory otherwise");
  verb->add_flag("--resume", o.resume, "go on from the last checkpoint");
  add_trace(verb, o.trace);
  return verb;
}

CLI::App* add_route(CLI::App& app, Call& call, Route& o) {
  CLI::App* verb = add_verb(app, call, "route", "run one router on given activations and write its plan",
                            "choir route --router etr --x tokens.safetensors:x --experts 8 --out plan.safetensors");
  verb->add_option("--router", o.router, "an alias, or score > propose > admit > weigh + balance")->required();
  verb->add_option("--x", o.x, "FILE[:TENSOR], activations [N,D]")->required();
  verb->add_option("--gate", o.gate, "FILE[:TENSOR], the gate [E,D]; once for each tensor of the router");
  verb->add_option("--experts", o.experts, "experts, where the gate does not tell")->check(CLI::Range(1, 4096));
  verb->add_option("--nodes", o.nodes, "FILE[:TENSOR], I64 [N], the node of each token");
  verb->add_option("--ids", o.ids, "FILE[:TENSOR], I64 [N], token ids for routers that hash");
  verb->add_option("--settle", o.settle, "steps on the same tokens before, for capacities and biases that follow")
      ->check(CLI::Range(0, 100000));
  verb->add_flag("--decode", o.decode, "the causal rule of evaluation instead of the training rule");
  add_out(verb, o.out, o.force);
  return verb;
}

CLI::App* add_report(CLI::App& app, Call& call, Report& o) {
  CLI::App* verb = add_verb(app, call, "report", "training runs beside one another, as one page of HTML",
                            "choir report runs/* --out report.html");
  verb->add_option("RUN", o.runs, "directories that choir train wrote, finished or not")->required();
  add_out(verb, o.out, o.force);
  return verb;
}

CLI::App* add_doctor(CLI::App& app, Call& call, Doctor& o) {
  CLI::App* verb = add_verb(app, call, "doctor", "what this machine offers, or what is wrong with a run or a model",
                            "choir doctor run");
  verb->add_option("PATH", o.path, "directory of a training run or a model");
  return verb;
}

}  // namespace

std::optional<Call> parse_arguments(int argc, const char* const* argv) {
  CLI::App app("Choir: train, shrink and run mixture-of-experts language models", "choir");
  app.require_subcommand(1);
  app.set_version_flag("--version", CHOIR_VERSION);
  Call call;
  Inspect inspect;
  Forward forward;
  Generate generate;
  Bench bench;
  Eval eval;
  Prune prune;
  Fit fit;
  MergeCaptures merge_captures;
  Skip skip;
  Convert convert;
  Train train;
  Route route;
  Report report;
  Doctor doctor;
  const CLI::App* asked[] = {add_inspect(app, call, inspect),   add_forward(app, call, forward),
                             add_generate(app, call, generate), add_bench(app, call, bench),
                             add_eval(app, call, eval),         add_prune(app, call, prune),
                             add_fit(app, call, fit),           add_merge_captures(app, call, merge_captures),
                             add_skip(app, call, skip),         add_convert(app, call, convert),
                             add_train(app, call, train),       add_route(app, call, route),
                             add_report(app, call, report),     add_doctor(app, call, doctor)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    app.exit(help);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    base::usage_error(error.what(), "", "choir VERB --help shows the options");
  }
  const Verb filled[] = {inspect,        forward, generate, bench, eval,  prune,  fit,
                         merge_captures, skip,    convert,  train, route, report, doctor};
  for (size_t i = 0; i < std::size(asked); ++i)
    if (asked[i]->parsed()) {
      call.verb = filled[i];
      call.common.seed_given = asked[i]->count("--seed") > 0;
    }
  return call;
}

}  // namespace choir::cli
