/*
 * From a samplesheet to all cells of all samples in one mosaic: the first half of every workflow.
 *
 *   samplesheet ─┬─ RNA_QC ──────────────────────────────┐
 *                ├─ PROTEIN_QC ──────────────────────────┤
 *                ├─ FRAGMENTS_QC ─ peaks ─ COUNT_PEAKS ──┤
 *                └─ ATAC_QC (matrix or counts) ──────────┴─ MOSAIC
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

include { chosen                                                       } from '../modules/shell'
include { in_order ; path_or_none                                      } from '../modules/channels'
include { files_of ; group_meta ; group_of ; hashtags_of ; meta_of     } from '../modules/samples'
include { missing_files ; modalities_of ; peak_set_of ; run_files      } from '../modules/samples'
include { samples_of ; with_held                                       } from '../modules/samples'
include { write_info                                                   } from '../modules/record'

workflow CELLS {
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
    aliases     = path_or_none(settings.feature_aliases)

    //
    // The gate: nothing heavy starts before all inputs of all samples were looked at
    //
    columns = chosen(settings, ['peak_group', 'replicate', 'labels'] + (settings.regulation ? ['groups'] : []))
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
        settings.regulation ? path_or_none(settings.fasta) : [],
        settings.regulation ? path_or_none(settings.motifs) : [],
        settings.regulation ? chrom_sizes : [],
        settings.regulation ? gtf : [],
        settings.regulation ? tss : [],
        chosen(settings, ['peak_source', 'min_shared_genes', 'regulation', 'genome', 'chrom_style']),
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
    // All cells together
    //
    ch_cells = in_order(RNA_QC.out.cells.mix(ATAC_QC.out.cells, PROTEIN_QC.out.cells), ch_names)
        .filter { cells -> cells } // channel: [ h5ad ]; a run that is stopped closes its channels empty
    MOSAIC(
        CHECK_SAMPLESHEET.out.samples, ch_cells, reference, aliases,
        chosen(settings, ['min_cells_fraction', 'min_shared_genes', 'n_top_genes', 'partial_cells', 'remove_doublets']),
    )
    in_order(FINGERPRINT.out.table, ch_names).subscribe { tables ->
        write_info(settings, 'inputs.tsv', 'sample\tcolumn\tpath\tsize\tsha256\n' + tables.collect { table -> table.text }.join())
    }

    emit:
    mosaic   = MOSAIC.out.mosaic              // channel: mosaic.h5mu (value)
    samples  = CHECK_SAMPLESHEET.out.samples  // channel: samples.json (value)
    rows     = ch_samples                     // channel: row
    peaks    = ch_peaks                       // channel: bed (one, or none)
    measured = ch_measured                    // channel: [ modality ] (one)
    qc       = CHECK_INPUTS.out.qc.mix(RNA_QC.out.qc, PROTEIN_QC.out.qc, FRAGMENTS_QC.out.qc, ATAC_QC.out.qc) // channel: qc/*
}
