/*
 * From a samplesheet to a joint embedding, imputation, contrasts and a page.
 *
 *   samplesheet ─┬─ RNA_QC ──────────────────────────────┐
 *                ├─ PROTEIN_QC ──────────────────────────┤
 *                ├─ FRAGMENTS_QC ─ peaks ─ COUNT_PEAKS ──┤                                         ┌─ IMPUTE ─ GATHER ─┐
 *                └─ ATAC_QC (matrix or counts) ──────────┴─ MOSAIC ─ TRAIN ─ CALIBRATE ─ EMBED ────┼─ DIFFERENTIAL ────┼─ REPORT
 *                                                                                                                      ├─ EXPORT
 *                                                                                                                      └─ REGULATION (--regulation: regulation.nf)
 */

include { CHECK_SAMPLESHEET } from '../modules/check_samplesheet'
include { PREFLIGHT         } from '../modules/preflight'
include { CHECK_INPUTS      } from '../modules/check_inputs'
include { FINGERPRINT       } from '../modules/fingerprint'
include { RNA_QC            } from '../modules/rna_qc'
include { PROTEIN_QC        } from '../modules/protein_qc'
include { FRAGMENTS_QC      } from '../modules/fragments_qc'
include { CALL_PEAKS        } from '../modules/call_peaks'
include { MERGE_PEAKS       } from '../modules/merge_peaks'
include { COUNT_PEAKS       } from '../modules/count_peaks'
include { ATAC_QC           } from '../modules/atac_qc'
include { MOSAIC            } from '../modules/mosaic'
include { TRAIN             } from '../modules/train'
include { CALIBRATE         } from '../modules/calibrate'
include { EMBED             } from '../modules/embed'
include { IMPUTE            } from '../modules/impute'
include { GATHER            } from '../modules/gather'
include { DIFFERENTIAL      } from '../modules/differential'
include { EXPORT            } from '../modules/export'
include { REPORT            } from '../modules/report'
include { REGULATION        } from './regulation'

include { chosen                                                      } from '../modules/shell'
include { contrasts_of ; files_of ; group_meta ; group_of ; hashtags_of } from '../modules/samples'
include { meta_of ; modalities_of                                     } from '../modules/samples'
include { by_path ; in_order ; missing_files ; path_or_none           } from '../modules/samples'
include { peak_set_of ; run_files ; samples_of ; sources_of ; with_held } from '../modules/samples'
include { bill_text ; parameters_text ; versions_text ; write_info    } from '../modules/record'

workflow REPROCESS {
    take:
    settings // Map: every parameter, cast and checked

    main:
    sheet       = file(settings.input, glob: false)
    genome      = chosen(settings, ['genome', 'chrom_style', 'mito_contig'])
    chrom_sizes = path_or_none(settings.chrom_sizes)
    tss         = path_or_none(settings.tss)
    gtf         = path_or_none(settings.gtf)
    blacklist   = path_or_none(settings.blacklist)
    peaks       = path_or_none(settings.peaks)
    contrasts   = path_or_none(settings.contrasts)
    reference   = path_or_none(settings.reference)
    marker_sets = path_or_none(settings.marker_sets)
    fasta       = path_or_none(settings.fasta)
    motifs      = path_or_none(settings.motifs)
    aliases     = path_or_none(settings.feature_aliases)
    features    = settings.impute_features == 'all' ? [] : path_or_none(settings.impute_features)
    seeded      = chosen(settings, ['seed', 'device'])

    //
    // The gate: nothing heavy starts before all inputs of all samples were looked at
    //
    columns = chosen(settings, ['peak_group', 'replicate', 'labels'])
    CHECK_SAMPLESHEET(sheet, contrasts, sheet.parent.toUriString(), missing_files(sheet), columns)
    ch_declared = CHECK_SAMPLESHEET.out.samples.flatMap { json -> samples_of(json) }
    ch_names    = CHECK_SAMPLESHEET.out.samples.map { json -> samples_of(json).collect { row -> row.sample } } // channel: [ sample ] (value)
    ch_groups   = CHECK_SAMPLESHEET.out.samples
        .map { json -> samples_of(json).collect { row -> group_of(row, settings.peak_group) }.unique() }       // channel: [ group ] (value)

    PREFLIGHT(
        ch_declared.map { row ->
            [meta_of(row), (row.naming ?: [:]) + [hto_features: row.hto_features]] + ['rna', 'fragments', 'atac', 'protein', 'h5mu', 'peaks', 'barcodes', 'barcode_map', 'cells', 'hto'].collect { column -> path_or_none(row[column]) }
        },
        genome, chrom_sizes, tss, gtf, blacklist, peaks,
    )
    CHECK_INPUTS(
        CHECK_SAMPLESHEET.out.samples,
        in_order(PREFLIGHT.out.checked, ch_names).filter { checked -> checked },
        peaks,
        reference,
        aliases,
        chosen(settings, ['peak_source', 'min_shared_genes']),
    )
    ch_peak_set = CHECK_INPUTS.out.plan.map { json -> peak_set_of(json) }                // channel: word (value)
    ch_samples  = ch_declared.combine(ch_peak_set).combine(CHECK_INPUTS.out.plan)
        .map { row, peak_set, plan -> with_held(row, plan) + [peak_set: peak_set] }                     // channel: row
    ch_measured = ch_samples.toList().map { rows -> modalities_of(rows) }.filter { found -> found }      // channel: [ modality ] (one)

    FINGERPRINT(
        ch_samples.map { row -> [meta_of(row), files_of(row)] }
            .mix(ch_peak_set.map { _word -> [[sample: '-'], run_files(settings)] })
            .map { meta, named ->
                [meta, named.collect { pair -> pair[0] }, named.collect { pair -> pair[1] }, named.collect { pair -> path_or_none(pair[1]) }]
            }
    )

    //
    // Cells of each sample, by what was measured in them
    //
    RNA_QC(
        ch_samples.filter { row -> row.rna }.map { row -> [meta_of(row), path_or_none(row.rna), path_or_none(row.barcodes), path_or_none(row.cells)] + hashtags_of(row) },
        chosen(settings, ['rna_min_genes', 'rna_min_counts', 'rna_max_mito', 'rna_mad'], 'rna_') + chosen(settings, ['mito_genes', 'ambient', 'ambient_share', 'seed']),
    )
    PROTEIN_QC(
        ch_samples.filter { row -> row.protein }.map { row -> [meta_of(row), path_or_none(row.protein), path_or_none(row.barcodes), path_or_none(row.cells)] + hashtags_of(row) },
        chosen(settings, ['seed']),
    )
    FRAGMENTS_QC(
        ch_samples.filter { row -> row.fragments }.map { row ->
            [meta_of(row)] + ['fragments', 'barcodes', 'rna', 'barcode_map'].collect { column -> path_or_none(row[column]) }
        },
        genome + chosen(settings, ['atac_min_fragments'], 'atac_'), chrom_sizes, tss, gtf, blacklist,
    )

    //
    // One set of peaks: known before (given, a matrix's, the reference's), merged from the samples', or called
    //
    ch_fragments = ch_samples.filter { row -> row.fragments }
        .map { row -> [row.sample, row] }
        .join(FRAGMENTS_QC.out.fragments.map { meta, kept -> [meta.sample, kept] })
        .join(FRAGMENTS_QC.out.candidates.map { meta, candidates -> [meta.sample, candidates] })
        .map { _sample, row, kept, candidates -> [row, kept, candidates] } // channel: [ row, fragments, candidates ]

    CALL_PEAKS(
        ch_fragments.filter { row, _fragments, _candidates -> row.peak_set == 'macs3' }
            .toSortedList { one, other -> one[0].index <=> other[0].index }
            .flatMap { tuples ->
                tuples.groupBy { tuple -> group_of(tuple[0], settings.peak_group) }
                    .collect { group, members -> [group_meta(group), members.collect { tuple -> tuple[1] }, members.collect { tuple -> tuple[2] }] }
            },
        genome, chrom_sizes,
    )
    ch_own_peaks = ch_samples.filter { row -> row.peak_set == 'samples' && row.peaks }.map { row -> [row, path_or_none(row.peaks)] }
    MERGE_PEAKS(
        in_order(ch_own_peaks, ch_names).map { beds -> [true, beds] }
            .mix(in_order(CALL_PEAKS.out.peaks, ch_groups).map { beds -> [false, beds] })
            .filter { _union, beds -> beds },
        genome + chosen(settings, ['peak_width'], 'peak_'), chrom_sizes, blacklist,
    )
    ch_peaks = CHECK_INPUTS.out.peaks.mix(MERGE_PEAKS.out.peaks) // channel: bed (one)

    COUNT_PEAKS(
        ch_fragments.map { row, fragments, candidates -> [meta_of(row), fragments, candidates] }.combine(ch_peaks),
        genome + [strategy: settings.count_strategy], chrom_sizes,
    )
    ch_matrices = ch_samples.filter { row -> row.atac && !row.fragments }
        .map { row -> [meta_of(row), path_or_none(row.atac), [], path_or_none(row.barcodes), path_or_none(row.barcode_map), path_or_none(row.cells)] + hashtags_of(row) }
    ch_counted  = ch_samples.filter { row -> row.fragments }
        .map { row -> [meta_of(row), path_or_none(row.barcodes), path_or_none(row.barcode_map), path_or_none(row.cells)] + hashtags_of(row) }
        .join(COUNT_PEAKS.out.counts)
        .join(FRAGMENTS_QC.out.qc_folder)
        .map { meta, barcodes, barcode_map, cells, hto, tags, counts, folder -> [meta, counts, folder, barcodes, barcode_map, cells, hto, tags] }
    ATAC_QC(
        ch_matrices.mix(ch_counted),
        chosen(settings, ['atac_min_fragments', 'atac_min_tsse', 'atac_min_frip', 'atac_max_blacklist'], 'atac_') + chosen(settings, ['seed']),
    )

    //
    // All cells together, the model, what it says
    //
    ch_cells = in_order(RNA_QC.out.cells.mix(ATAC_QC.out.cells, PROTEIN_QC.out.cells), ch_names)
        .filter { cells -> cells } // channel: [ h5ad ]; a run that is stopped closes its channels empty
    MOSAIC(
        CHECK_SAMPLESHEET.out.samples, ch_cells, reference, aliases,
        chosen(settings, ['min_cells_fraction', 'min_shared_genes', 'n_top_genes', 'partial_cells', 'remove_doublets']),
    )
    TRAIN(
        MOSAIC.out.mosaic, reference,
        chosen(settings, [
            'n_latent', 'n_hidden', 'n_layers', 'rna_likelihood', 'atac_likelihood', 'dispersion', 'fusion', 'alignment',
            'alignment_weight', 'adversary', 'adversary_weight', 'cross_reconstruction', 'batch_integration', 'kl_warmup',
            'categorical_covariates', 'continuous_covariates', 'model_compat', 'max_epochs', 'batch_size', 'learning_rate', 'precision', 'device',
            'n_devices', 'seed',
        ]) + (settings.labels_weight ? chosen(settings, ['labels', 'labels_weight']) : [:]),
    )
    CALIBRATE(MOSAIC.out.mosaic, TRAIN.out.model, seeded)
    EMBED(
        MOSAIC.out.mosaic, CALIBRATE.out.model, contrasts, marker_sets, tss, gtf,
        chosen(settings, ['cluster_resolution', 'labels', 'genome', 'chrom_style']) + seeded,
    )
    ch_imputed = ch_measured
        .flatMap { found -> found.intersect(settings.impute.tokenize(',')) }
        .combine(EMBED.out.chunks.flatten())
        .combine(MOSAIC.out.mosaic)
        .combine(CALIBRATE.out.model) // channel: [ modality, chunk, mosaic, model ]
    IMPUTE(
        ch_imputed, features,
        chosen(settings, ['impute_batch', 'predictive'], 'impute_') + seeded +
            [samples: settings.posterior_samples] + (settings.impute_features == 'all' ? [features: 'all'] : [:]),
    )
    GATHER(
        IMPUTE.out.imputed.groupTuple().map { modality, chunks -> [modality, chunks.sort { chunk -> chunk.name }] },
        EMBED.out.embedding.first(), // a value: every modality reads it
        chosen(settings, ['zarr_format']),
    )
    DIFFERENTIAL(
        CHECK_SAMPLESHEET.out.samples.combine(ch_measured.map { found -> [found] }).flatMap { json, found -> contrasts_of(json, found) }.combine(EMBED.out.embedding).combine(CALIBRATE.out.model),
        chosen(settings, ['replicate', 'delta', 'fdr']) + seeded,
    )
    EXPORT(
        EMBED.out.embedding,
        by_path(GATHER.out.imputed.map { _modality, store -> store }),
        chosen(settings, ['explorer_size', 'title']) + [h5ad: settings.h5ad == null ? 'auto' : settings.h5ad.toString()],
    )

    ch_facts = channel.empty()          // channel: <part>.json of regulation
    ch_regulation_costs = channel.empty() // channel: *.resources.json
    if (settings.regulation) {
        ch_sources = ch_samples.filter { row -> row.fragments }
            .toSortedList { one, other -> one.index <=> other.index }
            .map { rows -> sources_of(rows) } // channel: [ samples, fragments, mapped, maps ] (one)
        ch_rna = GATHER.out.imputed.filter { modality, _store -> modality == 'rna' }.map { _modality, store -> store }
        REGULATION(
            EMBED.out.embedding, ch_sources, ch_peaks.ifEmpty([]), ch_rna.ifEmpty([]), genome, chrom_sizes, gtf, tss, blacklist,
            fasta, motifs, settings.groups, chosen(settings, ['fdr', 'seed']),
        )
        ch_facts = REGULATION.out.facts
        ch_regulation_costs = REGULATION.out.resources
    }

    //
    // The page, and what a run must be repeated by
    //
    ch_told     = channel.topic('versions').toList()                      // channel: [ [process, tool, version] ]
    ch_versions = ch_told.map { triples -> versions_text(triples) } // channel: yaml text
    ch_resources = CHECK_SAMPLESHEET.out.resources.mix(
        PREFLIGHT.out.resources, CHECK_INPUTS.out.resources, RNA_QC.out.resources, PROTEIN_QC.out.resources,
        FRAGMENTS_QC.out.resources, CALL_PEAKS.out.resources, MERGE_PEAKS.out.resources, COUNT_PEAKS.out.resources,
        ATAC_QC.out.resources, MOSAIC.out.resources, TRAIN.out.resources, CALIBRATE.out.resources, EMBED.out.resources,
        IMPUTE.out.resources, GATHER.out.resources, DIFFERENTIAL.out.resources, EXPORT.out.resources,
        ch_regulation_costs,
    )
    REPORT(
        EMBED.out.embedding,
        CALIBRATE.out.model,
        by_path(CHECK_INPUTS.out.qc.mix(RNA_QC.out.qc, PROTEIN_QC.out.qc, FRAGMENTS_QC.out.qc, ATAC_QC.out.qc)),
        by_path(GATHER.out.imputed.map { _modality, store -> store }),
        by_path(DIFFERENTIAL.out.table),
        by_path(ch_facts),
        by_path(ch_resources),
        ch_versions,
        parameters_text(settings),
    )
    ch_versions.subscribe { text -> write_info(settings, 'software_versions.yml', text) }
    ch_told.subscribe { triples -> write_info(settings, 'sbom.cdx.json', bill_text(triples)) }
    in_order(FINGERPRINT.out.table, ch_names).subscribe { tables ->
        write_info(settings, 'inputs.tsv', 'sample\tcolumn\tpath\tsize\tsha256\n' + tables.collect { table -> table.text }.join())
    }

    emit:
    report = REPORT.out.page // channel: report.html
}
